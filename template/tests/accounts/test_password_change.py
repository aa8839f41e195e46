"""A login that is under way while the password is changed."""

import pytest

from app.accounts.repository import AccountRepository, StoredAccount
from app.core.sessions import UserDependency
from app.database import DatabaseUnavailable
from tests.accounts.browsers import PASSWORD, MakeBrowser, register
from tests.conftest import Client


@pytest.mark.parametrize("looks_again", [True, False])
async def test_a_login_under_way_while_the_password_is_changed_keeps_no_session(
    client: Client, browser: MakeBrowser, monkeypatch: pytest.MonkeyPatch, looks_again: bool
) -> None:
    """It knows the account as it was before. The control does not look at it again."""

    async def whoever(user: UserDependency) -> str:
        return user

    client.app.add_api_route("/whoever", whoever)
    accounts: AccountRepository = client.app.state.accounts
    name, owner, thief = await register(client), browser(), browser("203.0.113.1")
    await owner.log_in(name)
    before = await accounts.find(name)
    assert before is not None
    change = {"current": PASSWORD, "new": "another horse battery"}
    assert (await owner.put("/accounts/password", json=change)).status_code == 200

    async def as_before(_: object) -> StoredAccount:
        return before

    with monkeypatch.context() as patched:
        patched.setattr(accounts, "find", as_before)
        if not looks_again:
            patched.setattr(accounts, "get", as_before)
        answer = await thief.log_in(name)
    inside = (await thief.get("/whoever")).status_code
    assert (answer.status_code, inside) == ((401, 401) if looks_again else (200, 200))
    assert bool(thief.cookies) is not looks_again


async def test_a_login_that_cannot_look_again_keeps_no_session(
    client: Client, browser: MakeBrowser, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, device = await register(client), browser()

    async def fail(_: object) -> None:
        raise DatabaseUnavailable("on purpose")

    with monkeypatch.context() as patched:
        patched.setattr(client.app.state.accounts, "get", fail)
        assert (await device.log_in(name)).status_code == 503
    assert not device.cookies
