"""Accounts and their sessions over HTTP, on the real database and the real Redis."""

import asyncio
from time import perf_counter
from uuid import uuid4

import httpx2
import pytest

from app.accounts.repository import AccountRepository
from devservers.server import free_port
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.accounts.browsers import PASSWORD, Browser, MakeBrowser, register
from tests.conftest import Client, MakeValkey, Serve


async def test_registering_and_logging_in_and_out(client: Client, browser: MakeBrowser) -> None:
    name, device = await register(client), browser()
    assert await device.name() is None
    assert (await device.log_in(name)).json()["account"]["name"] == name
    assert await device.name() == name
    assert (await device.post("/accounts/logout")).status_code == 204
    assert await device.name() is None


async def test_a_name_has_one_owner(client: Client) -> None:
    name = await register(client)
    for spelling in (name, name.upper(), f" {name} "):
        again = {"name": spelling, "password": PASSWORD}
        assert (await client.post("/accounts", json=again)).status_code == 409


async def test_of_many_who_want_a_name_one_gets_it(client: Client) -> None:
    wanted = {"name": f"user-{uuid4().hex[:12]}", "password": PASSWORD}
    answers = await asyncio.gather(*(client.post("/accounts", json=wanted) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "ab"},
        {"name": "with space"},
        {"name": "x" * 101},
        {"name": "аdmin"},  # noqa: RUF001  # the first letter is Cyrillic
        {"name": "nul\x00"},
        {"password": "too short"},
        {"password": "x" * 201},
    ],
    ids=str,
)
async def test_a_wrong_registration_is_refused(client: Client, wrong: dict[str, str]) -> None:
    new = {"name": "somebody", "password": PASSWORD} | wrong
    answer = await client.post("/accounts", json=new)
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/accounts"), ("POST", "/accounts/login"), ("PUT", "/accounts/password")],
)
async def test_a_wrong_body_is_not_said_back(
    client: Client, browser: MakeBrowser, method: str, path: str
) -> None:
    name, device = await register(client), browser()
    await device.log_in(name)
    secret = "hunter2-hunter2"
    for body in (
        {"name": 5, "password": secret},
        {"name": "ann", "password": [secret]},
        {"name": "ann", "password": {"value": secret}},
        {"name": "ann", "password": secret * 50},
        {"name": "ann", "passwort": secret},
        {"current": [secret], "new": secret[:7]},
        [secret],
        secret,
    ):
        answer = await device.request(method, path, json=body)
        assert answer.status_code == 422
        assert "hunter2" not in answer.text


async def test_the_password_is_not_kept(client: Client) -> None:
    name = await register(client)
    accounts: AccountRepository = client.app.state.accounts
    account = await accounts.find(name)
    assert account is not None
    assert account.password_hash.startswith("$argon2id$")
    assert PASSWORD not in account.password_hash


async def test_a_wrong_login_does_not_say_what_was_wrong(
    client: Client, browser: MakeBrowser
) -> None:
    name, device = await register(client), browser()
    wrong_password = await device.log_in(name, "wrong password")
    wrong_name = await device.log_in(f"{name}x")
    assert (wrong_password.status_code, wrong_name.status_code) == (401, 401)
    assert wrong_password.json() == wrong_name.json()
    assert not device.cookies


async def test_a_wrong_name_takes_as_long_as_a_wrong_password(
    client: Client, browser: MakeBrowser
) -> None:
    name, device = await register(client), browser()

    async def seconds(name: str) -> float:
        started = perf_counter()
        assert (await device.log_in(name, "wrong password")).status_code == 401
        return perf_counter() - started

    await seconds(f"{name}x")  # the first one prepares
    known, unknown = zip(
        *[(await seconds(name), await seconds(f"{name}x")) for _ in range(4)], strict=True
    )
    # Without the work of a hash it would be a fiftieth.
    assert min(unknown) > min(known) / 5


async def test_another_id_with_the_login(client: Client, browser: MakeBrowser) -> None:
    name, device = await register(client), browser()
    await device.log_in(name)
    first = dict(device.cookies)
    await device.log_in(name)
    assert dict(device.cookies) != first
    thief = browser()
    thief.cookies = httpx2.Cookies()
    answer = await thief.get("/accounts/me", headers=cookie_header(first))
    assert answer.status_code == 401


def cookie_header(cookies: dict[str, str]) -> dict[str, str]:
    return {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}


async def test_a_new_password_ends_all_other_sessions(client: Client, browser: MakeBrowser) -> None:
    name, phone, laptop = await register(client), browser(), browser()
    for device in (phone, laptop):
        await device.log_in(name)
    old = dict(phone.cookies)
    change = {"current": PASSWORD, "new": "another horse battery"}
    answer = await phone.put("/accounts/password", json=change)
    assert answer.status_code == 200, answer.text
    phone.remember(answer)
    assert [await device.name() for device in (phone, laptop)] == [name, None]
    assert (await browser().get("/accounts/me", headers=cookie_header(old))).status_code == 401
    assert (await laptop.log_in(name)).status_code == 401
    assert (await laptop.log_in(name, "another horse battery")).status_code == 200
    assert (await phone.put("/accounts/password", json=change)).status_code == 403


async def test_an_old_session_is_over_also_if_redis_did_not_hear_of_it(
    client: Client, browser: MakeBrowser
) -> None:
    name, device = await register(client), browser()
    await device.log_in(name)
    accounts: AccountRepository = client.app.state.accounts
    account = await accounts.find(name)
    assert account is not None
    assert await accounts.set_password(account.id, account.password_hash, version=1)
    assert not await accounts.set_password(account.id, account.password_hash, version=1)
    assert await device.name() is None
    assert not device.cookies


async def test_logging_out_everywhere(client: Client, browser: MakeBrowser) -> None:
    name, phone, laptop = await register(client), browser(), browser()
    for device in (phone, laptop):
        await device.log_in(name)
    assert (await phone.post("/accounts/logout-everywhere")).status_code == 204
    assert [await device.name() for device in (phone, laptop)] == [None, None]
    assert (await phone.post("/accounts/logout-everywhere")).status_code == 401


async def test_without_scripts_a_form_logs_out_and_another_login_needs_nothing(
    client: Client, browser: MakeBrowser
) -> None:
    first, second, device = await register(client), await register(client), browser()
    await device.log_in(first)
    del device.headers["x-csrf-token"]
    token = (await device.log_in(second)).json()["csrf_token"]
    assert await device.name() == second
    del device.headers["x-csrf-token"]
    assert (await device.post("/accounts/logout", data={})).status_code == 403
    answer = await device.post("/accounts/logout", data={"csrf_token": token})
    assert answer.status_code == 204
    assert await device.name() is None


async def test_a_page_of_somebody_else_cannot_write(client: Client, browser: MakeBrowser) -> None:
    name, device = await register(client), browser()
    await device.log_in(name)
    for headers in ({"sec-fetch-site": "cross-site"}, {"x-csrf-token": "guessed"}):
        answer = await device.post("/accounts/logout", headers=headers)
        assert answer.status_code == 403
    assert await device.name() == name


async def test_a_redis_that_takes_no_writes_is_told_as_such(
    serve: Serve, make_valkey: MakeValkey
) -> None:
    with make_valkey(min_replicas_to_write="1") as server:
        async with serve(session_redis_url=server.url) as client, Browser(client) as device:
            answer = await device.log_in("anybody")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            health = (await client.get("/health/ready")).json()
    assert health["checks"]["sessions"]["status"] == "degraded"


async def test_without_redis_a_login_says_so_and_the_rest_goes_on(serve: Serve) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    async with serve(redis_url=nowhere, session_redis_url=nowhere) as client:
        name = await register(client)
        async with Browser(client) as device:
            answer = await device.log_in(name)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await client.get("/health/ready")).status_code == 200


async def test_a_login_that_redis_refuses_for_now_says_so(
    serve: Serve, make_valkey: MakeValkey
) -> None:
    with make_valkey(min_replicas_to_write="1") as valkey:
        async with serve(redis_url=valkey.url) as client, Browser(client) as device:
            answer = await device.log_in(await register(client))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_sessions_may_have_a_redis_of_their_own(
    serve: Serve, valkey: EmbeddedValkey, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve(session_redis_url=valkey.url) as client:
        name = await register(client)
        async with Browser(client) as device:
            await device.log_in(name)
            assert await device.name() == name
            valkey.kill()
            assert (await device.get("/accounts/me")).status_code == 503
            assert (await client.get("/health/ready")).status_code == 200
            assert (await client.get("/health/ready")).status_code == 200
            valkey.restart()

            async def is_back() -> bool:
                return (await device.get("/accounts/me")).status_code != 503

            await until(is_back)
            assert await device.name() is None  # it has forgotten everybody


async def test_a_server_that_may_evict_sessions_is_warned_of(
    serve: Serve, make_valkey: MakeValkey, capsys: pytest.CaptureFixture[str]
) -> None:
    with make_valkey(maxmemory="64mb", maxmemory_policy="allkeys-lru") as evicting:
        async with serve(redis_url=evicting.url, log_level="DEBUG"):
            assert "may evict sessions" in capsys.readouterr().out
        with make_valkey(maxmemory="64mb", maxmemory_policy="noeviction") as keeping:
            urls = {"redis_url": evicting.url, "session_redis_url": keeping.url}
            async with serve(**urls, log_level="DEBUG"):
                shown = capsys.readouterr().out
    assert "may evict sessions" not in shown
    assert "nothing is cached" not in shown
