"""Admins: who is one, and what they may do, on the real database."""

import asyncio
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from app.accounts.repository import AccountRepository, LastHolder
from app.accounts.roles import NoSuchAccount, Role, make_admin
from tests.accounts.browsers import Browser, MakeBrowser, register
from tests.conftest import Client, Serve


async def new_account(client: Client) -> tuple[str, str]:
    """The name and the id of a new account."""
    name = await register(client)
    accounts: AccountRepository = client.app.state.accounts
    found = await accounts.find(name)
    assert found is not None
    return name, str(found.id)


async def new_admin(client: Client) -> tuple[str, str]:
    name, account_id = await new_account(client)
    await make_admin(client.app.state.accounts, name)
    return name, account_id


async def test_only_admins_look_at_accounts(client: Client, browser: MakeBrowser) -> None:
    (admin_name, _), (name, account_id) = await new_admin(client), await new_account(client)
    admin, other, nobody = browser(), browser(), browser()
    await admin.log_in(admin_name)
    await other.log_in(name)
    assert (await admin.get("/admin/accounts")).status_code == 200
    role = f"/admin/accounts/{account_id}/roles/admin"
    for method, path in [("GET", "/admin/accounts"), ("PUT", role), ("DELETE", role)]:
        assert (await other.request(method, path)).status_code == 403
        assert (await nobody.request(method, path)).status_code == 401


async def test_a_role_is_given_and_taken_and_both_are_in_the_log(
    client: Client, browser: MakeBrowser
) -> None:
    (admin_name, admin_id), (name, account_id) = await new_admin(client), await new_account(client)
    admin, other = browser(), browser()
    await admin.log_in(admin_name)
    await other.log_in(name)
    path = f"/admin/accounts/{account_id}/roles/admin"
    with capture_logs() as logs:
        for _ in range(2):
            assert (await admin.put(path)).json()["roles"] == ["admin"]
        assert (await other.get("/admin/accounts")).status_code == 200
        for _ in range(2):
            assert (await admin.delete(path)).json()["roles"] == []
    # With the session that it had, and at once.
    assert (await other.get("/admin/accounts")).status_code == 403
    lines = [line for line in logs if line["event"].startswith("accounts.role_")]
    assert {line["event"] for line in lines} == {"accounts.role_given", "accounts.role_taken"}
    assert {(line["account"], line["role"], line["by"]) for line in lines} == {
        (account_id, "admin", admin_id)
    }


async def test_what_is_not_there_is_told(client: Client, browser: MakeBrowser) -> None:
    (admin_name, admin_id), admin = await new_admin(client), browser()
    await admin.log_in(admin_name)
    nobody = f"/admin/accounts/{uuid4()}/roles/admin"
    assert (await admin.put(nobody)).status_code == 404
    assert (await admin.delete(nobody)).status_code == 404
    assert (await admin.put(f"/admin/accounts/{admin_id}/roles/emperor")).status_code == 422
    with pytest.raises(NoSuchAccount, match="register it first"):
        await make_admin(client.app.state.accounts, "nobody-of-this-name")


async def test_pages_hold_every_account_once(client: Client, browser: MakeBrowser) -> None:
    admin_name, _ = await new_admin(client)
    names = {admin_name, *[await register(client) for _ in range(4)]}
    admin = browser()
    await admin.log_in(admin_name)
    seen: list[str] = []
    after: str | None = None
    while True:
        params = {"limit": "2"} if after is None else {"limit": "2", "after": after}
        page = (await admin.get("/admin/accounts", params=params)).json()
        assert len(page["accounts"]) <= 2
        seen += [account["name"] for account in page["accounts"]]
        for account in page["accounts"]:
            assert account["roles"] == ["admin"] or account["name"] != admin_name
        if (after := page["next"]) is None:
            break
    assert len(seen) == len(set(seen))
    assert names <= set(seen)


async def test_of_all_who_give_it_up_at_once_one_keeps_it(client: Client) -> None:
    """With a role of its own: other tests have admins in this database."""
    accounts: AccountRepository = client.app.state.accounts
    role = f"role-{uuid4().hex[:8]}"
    found = [await accounts.find(await register(client)) for _ in range(4)]
    ids = [account.id for account in found if account is not None]
    for account_id in ids:
        await accounts.give_role(account_id, role)
    done = await asyncio.gather(
        *(accounts.take_role(account_id, role, keep_last=True) for account_id in ids),
        return_exceptions=True,
    )
    kept = [isinstance(one, LastHolder) for one in done]
    assert kept.count(True) == 1, done
    left = [account for account_id in ids if (account := await accounts.get(account_id))]
    assert [role in account.roles for account in left] == kept
    # The control: whoever does not insist takes it from the last one, too.
    assert await accounts.take_role(ids[kept.index(True)], role, keep_last=False)
    rest = [await accounts.get(account_id) for account_id in ids]
    assert not any(account is None or role in account.roles for account in rest)


async def test_the_last_admin_stays_one(client: Client, browser: MakeBrowser) -> None:
    accounts: AccountRepository = client.app.state.accounts
    admin_name, admin_id = await new_admin(client)
    after: str | None = None
    while True:  # those of other tests
        page = await accounts.page(after=after, limit=200)
        for account in page.accounts:
            if Role.ADMIN in account.roles and account.name != admin_name:
                await accounts.take_role(account.id, Role.ADMIN, keep_last=True)
        if (after := page.next) is None:
            break
    admin = browser()
    await admin.log_in(admin_name)
    answer = await admin.delete(f"/admin/accounts/{admin_id}/roles/admin")
    assert (answer.status_code, "last admin" in answer.json()["detail"]) == (409, True)
    assert (await admin.get("/admin/accounts")).status_code == 200


async def test_nobody_is_an_admin_while_the_database_is_away(
    serve: Serve, client: Client, no_database: dict[str, object]
) -> None:
    name, _ = await new_admin(client)
    async with Browser(client) as admin:
        await admin.log_in(name)
        assert (await admin.get("/admin/accounts")).status_code == 200
        async with serve(**no_database) as without, Browser(without) as same:
            same.cookies = admin.cookies
            answer = await same.get("/admin/accounts")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
