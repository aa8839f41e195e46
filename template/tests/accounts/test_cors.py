"""Pages of another origin act for who is logged in only where the settings say so."""

import pytest

from tests.accounts.browsers import Browser, register
from tests.conftest import Serve

PAGE = {"origin": "https://app.example", "sec-fetch-site": "same-site"}


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_page_acts_for_somebody(serve: Serve, trusted: bool) -> None:
    async with (
        serve(cors_origins=PAGE["origin"], cors_credentials=trusted) as client,
        Browser(client) as browser,
    ):
        await browser.log_in(await register(client))
        read = await browser.get("/accounts/me", headers=PAGE)
        written = await browser.post("/accounts/logout", headers=PAGE)
    assert read.headers["access-control-allow-origin"] == PAGE["origin"]
    assert read.headers.get("access-control-allow-credentials") == ("true" if trusted else None)
    assert written.status_code == (204 if trusted else 403)
    assert written.headers["access-control-allow-origin"] == PAGE["origin"]
