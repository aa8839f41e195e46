"""Somebody with two browsers ends one of them."""

from app.security.install import install_security
from tests.accounts.browsers import Browser, register
from tests.conftest import Serve


async def test_the_other_browser_is_logged_out(serve: Serve) -> None:
    async with serve(install_security) as client, Browser(client) as one, Browser(client) as other:
        name = await register(client)
        assert (await one.get("/security")).status_code == 401
        for browser in (one, other):
            await browser.log_in(name)
        assert (await one.get("/security")).json() == "logged in at 1 other places"
        assert (await one.post("/security/alarm")).status_code == 200
        assert (await one.get("/security")).json() == "logged in at 0 other places"
        assert (await other.get("/security")).status_code == 401
