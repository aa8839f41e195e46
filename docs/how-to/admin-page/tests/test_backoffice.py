"""The first admin is made by a command, and then enters what others do not."""

import argparse

from app.backoffice.install import install_backoffice
from app.commands.make_admin import run
from app.core.service import Service
from tests.accounts.browsers import Browser, register
from tests.conftest import Serve


async def test_the_first_admin_enters_and_makes_others(serve: Serve) -> None:
    services: list[Service] = []
    async with serve(install_backoffice, services.append) as client, Browser(client) as browser:
        name = await register(client)
        assert (await browser.get("/backoffice/sale")).status_code == 401
        await browser.log_in(name)
        assert (await browser.get("/backoffice/sale")).status_code == 403
        assert await run(services[0], argparse.Namespace(account="nobody-at-all")) == 1
        assert await run(services[0], argparse.Namespace(account=name)) == 0
        assert (await browser.post("/backoffice/sale")).status_code == 204
        assert (await browser.get("/backoffice/sale")).json() == 1
        listed = (await browser.get("/admin/accounts", params={"limit": "200"})).json()
        assert {"admin"} in [set(account["roles"]) for account in listed["accounts"]]
