"""Guessing is slowed down, and a flood of logins keeps nobody else from getting in."""

import asyncio
import threading

import pytest
from argon2 import PasswordHasher
from pydantic import SecretStr

from app.accounts.passwords import LineFull, Passwords
from app.accounts.repository import AccountRepository
from app.accounts.throttle import ACCOUNT, ADDRESS, PAIR, REGISTRATION, Throttle, network
from tests.accounts.browsers import PASSWORD, MakeBrowser, register
from tests.conftest import Client


@pytest.fixture
def throttle(client: Client) -> Throttle:
    """That of the application."""
    found: Throttle = client.app.state.throttle
    return found


async def test_guessing_is_slowed_down(client: Client, browser: MakeBrowser) -> None:
    name, other, device = await register(client), await register(client), browser()
    answers = [await device.log_in(name, "wrong password") for _ in range(11)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert int(answers[-1].headers["retry-after"]) > 60
    assert (await device.log_in(name)).status_code == 429
    assert (await device.log_in(other)).status_code == 200


async def test_limits_are_for_an_address_whatever_the_names(
    client: Client, browser: MakeBrowser, throttle: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the answer comes before any password is hashed."""

    async def hash_nothing(*_: object) -> None:
        raise AssertionError("hashed")

    for number in range(ADDRESS.tries):
        assert not await throttle.wait_for_login(f"name-{number}", "2001:db8:0:1::5")
    for _ in range(REGISTRATION.tries):
        assert not await throttle.wait_for_registration("192.0.2.9")
    monkeypatch.setattr(Passwords, "hash", hash_nothing)
    monkeypatch.setattr(Passwords, "matches", hash_nothing)
    answer = await browser("2001:db8:0:1::6").log_in("anybody")
    assert (answer.status_code, int(answer.headers["retry-after"]) > 60) == (429, True)
    new = {"name": "anybody", "password": PASSWORD}
    assert (await browser("192.0.2.9").post("/accounts", json=new)).status_code == 429


async def test_who_is_not_flooding_gets_in_meanwhile(client: Client, browser: MakeBrowser) -> None:
    names = [await register(client) for _ in range(2)]
    attempts = [
        asyncio.create_task(browser("203.0.113.1").log_in(f"nobody-{number}"))
        for number in range(8)
    ]
    devices = [browser("192.0.2.1"), browser("192.0.2.2")]
    answers = await asyncio.gather(
        *(device.log_in(name) for device, name in zip(devices, names, strict=True))
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    assert {(await attempt).status_code for attempt in attempts} == {401}


async def test_an_account_has_a_limit_over_all_addresses(throttle: Throttle) -> None:
    for number in range(ACCOUNT.tries):
        assert not await throttle.wait_for_login("ann", f"2001:db8:0:{number:x}::1")
    assert await throttle.wait_for_login("ann", "192.0.2.1") > 60
    assert not await throttle.wait_for_login("bob", "192.0.2.1")


async def test_one_address_does_not_use_up_the_tries_of_an_account(throttle: Throttle) -> None:
    for _ in range(ACCOUNT.tries + 1):
        await throttle.wait_for_login("ann", "192.0.2.1")
    assert not await throttle.wait_for_login("ann", "192.0.2.2")


async def test_who_gets_in_has_their_tries_back(throttle: Throttle) -> None:
    """So many people may log in from one office."""
    for number in range(2 * ADDRESS.tries):
        assert not await throttle.wait_for_login(f"name-{number}", "192.0.2.1")
        await throttle.forget_login(f"name-{number}", "192.0.2.1")
    for _ in range(PAIR.tries):
        assert not await throttle.wait_for_login("ann", "192.0.2.1")
    assert await throttle.wait_for_login("ann", "192.0.2.1")


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:DB8:1:2::", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_what_counts_as_one_address(address: str, counted: str) -> None:
    assert network(address) == counted


async def test_hashes_have_a_thread_each_and_a_line_that_ends() -> None:
    passwords = Passwords(at_once=2, most_waiting=3)
    try:
        attempts = [passwords.hash(SecretStr(PASSWORD)) for _ in range(9)]
        done = await asyncio.gather(*attempts, return_exceptions=True)
        names = [thread.name for thread in threading.enumerate()]
    finally:
        passwords.close()
    assert sum(isinstance(one, str) and ",p=1$" in one for one in done) == 5
    assert sum(isinstance(one, LineFull) for one in done) == 4
    assert sum(name.startswith("passwords") for name in names) == 2
    assert issubclass(LineFull, TimeoutError), "which is 503 and another try"


async def test_a_hash_of_other_parameters_is_replaced_by_a_login(
    client: Client, browser: MakeBrowser
) -> None:
    name, device = await register(client), browser()
    accounts: AccountRepository = client.app.state.accounts
    account = await accounts.find(name)
    assert account is not None
    assert ",p=1$" in account.password_hash
    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=2).hash(PASSWORD)
    await accounts.replace_hash(account, old)
    assert (await device.log_in(name, "wrong password")).status_code == 401
    assert (await device.log_in(name)).status_code == 200
    renewed = await accounts.find(name)
    assert renewed is not None
    assert (",p=1$" in renewed.password_hash, renewed.version) == (True, account.version)
    assert await device.name() == name
