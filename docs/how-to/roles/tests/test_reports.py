"""Who has the role is let in, and who has lost it is not."""

from app.accounts.repository import AccountRepository
from app.reports.install import install_reports
from tests.accounts.browsers import Browser, register
from tests.conftest import Serve


async def test_editors_write_and_read_reports(serve: Serve) -> None:
    async with serve(install_reports) as client, Browser(client) as browser:
        accounts: AccountRepository = client.app.state.accounts
        name = await register(client)
        account = await accounts.find(name)
        assert account is not None
        assert (await client.get("/reports")).status_code == 401
        await browser.log_in(name)
        assert (await browser.get("/reports")).status_code == 403
        await accounts.give_role(account.id, "editor")
        written = await browser.post("/reports", json="all is well")
        assert (written.status_code, written.json()) == (201, f"written by {account.id}")
        for status in ("miss", "hit"):
            answer = await browser.get("/reports")
            assert answer.json() == ["all is well"]
            assert status in answer.headers["cache-status"]
        await accounts.take_role(account.id, "editor", keep_last=False)
        assert (await browser.get("/reports")).status_code == 403
