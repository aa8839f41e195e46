"""What ends, ends: sessions that are logged out, expired, or written by two at once."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from app.core.redis import Script
from app.core.sessions import (
    scripts,
    store,
)
from app.core.sessions.keyring import KeyRing
from devservers.waiting import until
from tests.core.sessions.conftest import MakeApp, MakeBrowser, RecordAttack
from tests.core.sessions.harness import KEYS, Browser, Gate
from tests.core.sessions.looking import clock, session_keys
from tests.support.problems import problem_of

ABSOLUTE = 2.0
"""Seconds; within them a busy machine gets from one request to the next."""


class Revive:
    """A store that writes what it is given, whether the session is there or not."""

    _script = Script("""
        redis.call('HSET', KEYS[1], 'blob', ARGV[2], 'version', ARGV[1] + 1, 'expires_at', ARGV[4])
        return 1
    """)

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._context = b""
        encrypt = KeyRing.encrypt

        def overheard(ring: KeyRing, plain: bytes, *, session: str, context: bytes) -> bytes:
            self._context = context
            return encrypt(ring, plain, session=session, context=context)

        patch.setattr(KeyRing, "encrypt", overheard)

    async def run(self, client: Any, keys: list[str], arguments: list[Any]) -> Any:
        _, ends = self._context.split()
        return await self._script.run(client, keys, [*arguments, ends])


@pytest.mark.parametrize("rotate", [False, True], ids=["write", "rotate"])
async def test_resurrection(
    browser: MakeBrowser,
    app: FastAPI,
    redis: Redis,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
    rotate: bool,
) -> None:
    """A slow request ends after its session was logged out."""

    async def log_out_during_a_request() -> tuple[int, str | None, int]:
        await redis.flushall()
        app.state.gate = Gate()
        alice = browser()
        await alice.log_in("alice")
        old = str(alice.session_id)
        slow = asyncio.create_task(alice.put(f"/slowly?rotate={rotate}", json={"x": 1}))
        await app.state.gate.waiting.wait()
        await alice.post("/logout")
        app.state.gate.opened.set()
        answer = await slow
        thief = browser()
        thief.session_id = str(alice.session_id or old)
        return answer.status_code, await thief.user(), len(await session_keys(redis))

    assert await log_out_during_a_request() == (200, None, 0)
    if rotate:
        lenient = scripts._REPLACE.replace("return -1", "").replace("version ~= ARGV[5]", "false")
        without.setattr(store, "REPLACE", Script(lenient))
    else:
        without.setattr(store, "SAVE", Revive(without))
    _, user, sessions = await log_out_during_a_request()
    assert (user, sessions) == ("alice", 1)
    record_attack(
        f"resurrection by a slow {'rotation' if rotate else 'request'}",
        outcome="stays logged out",
        control="logged in again",
    )


async def test_logged_out_while_it_rotates(
    browser: MakeBrowser,
    app: FastAPI,
    redis: Redis,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
) -> None:
    """Whoever logs out is logged out, also under the ids that other requests gave it meanwhile."""

    async def rotate_during_a_logout() -> int:
        await redis.flushall()
        app.state.gate = Gate()
        alice = browser()
        await alice.log_in("alice")
        leaving = asyncio.create_task(alice.post("/logout-slowly"))
        await app.state.gate.waiting.wait()
        for _ in range(3):
            alice.remember((await alice.post("/rotate")).json())
        app.state.gate.opened.set()
        assert (await leaving).status_code == 200
        return len(await session_keys(redis))

    assert await rotate_during_a_logout() == 0
    without.setattr(store, "END", Script(scripts._END.replace("name = moved", "name = nil")))
    assert await rotate_during_a_logout() == 1
    record_attack("logout overtaken by a rotation", outcome="logged out", control="lives on")


async def test_concurrent_writes(
    browser: MakeBrowser,
    app: FastAPI,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
) -> None:
    async def write_during_a_request(slow: Any, quick: Any) -> tuple[int, Any]:
        app.state.gate = Gate()
        visitor = browser()
        await visitor.put("/data", json={"base": 0})
        await visitor.who()
        late = asyncio.create_task(visitor.put("/slowly", json=slow))
        await app.state.gate.waiting.wait()
        await visitor.put("/data", json=quick)
        app.state.gate.opened.set()
        answer = await late
        if (status := answer.status_code) != 200:
            problem_of(answer)
        return status, (await visitor.who())["data"]

    both = {"base": 0, "x": 1, "y": 2}
    assert await write_during_a_request({"x": 1}, {"y": 2}) == (200, both)
    assert await write_during_a_request({"x": 1}, {"x": 2}) == (409, {"base": 0, "x": 2})
    assert await write_during_a_request({"x": 1}, {"x": 1}) == (200, {"base": 0, "x": 1})
    without.setattr(store, "SAVE", Script(scripts._SAVE.replace("found[1] ~= ARGV[1]", "false")))
    status, data = await write_during_a_request({"x": 1}, {"y": 2})
    assert (status, "y" in data) == (200, False)
    record_attack("concurrent writes", outcome="merged, or 409", control="one is lost")


async def test_many_concurrent_writes(browser: MakeBrowser) -> None:
    visitor = browser()
    await visitor.put("/data", json={"base": 0})
    await visitor.who()
    answers = await asyncio.gather(*(visitor.put("/data", json={f"{n}": n}) for n in range(6)))
    made = {f"{n}": n for n, answer in enumerate(answers) if answer.status_code == 200}
    assert made
    assert (await visitor.who())["data"] == {"base": 0, **made}


async def test_expired_idle(
    make_app: MakeApp, browser: MakeBrowser, redis: Redis, record_attack: RecordAttack
) -> None:
    alice, bob = browser(make_app(idle_timeout=0.2)), browser(make_app(idle_timeout=60))
    await bob.log_in("bob")
    await alice.log_in("alice")

    async def has_one_expired() -> bool:
        return len(await session_keys(redis)) == 1

    await until(has_one_expired)
    assert await alice.user() is None
    assert await bob.user() == "bob"
    record_attack("expired, idle", outcome="nobody", control="with more time: still the user")


async def test_using_it_makes_it_last(alice: Browser, redis: Redis) -> None:
    [key] = await session_keys(redis)
    await redis.expire(key, 100)
    await alice.user()
    assert await redis.ttl(key) > 3000


@pytest.mark.slow
async def test_expired_absolute(
    make_app: MakeApp,
    browser: MakeBrowser,
    redis: Redis,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
) -> None:
    """A session that is used all the time, by whoever has the cookie."""

    async def use() -> str | None:
        alice = browser(make_app(idle_timeout=ABSOLUTE, absolute_timeout=ABSOLUTE))
        await alice.log_in("alice")
        ends = await clock(redis) + ABSOLUTE
        await alice.put("/data", json={"x": 1})
        await alice.post("/rotate")  # another id is no more time
        alice.session_id = str(alice.session_id)  # a thief does not heed the cookie's own end

        async def is_over() -> bool:
            await alice.user()
            return await clock(redis) > ends

        await until(is_over)
        return await alice.user()

    assert await use() is None
    endless = scripts._TOUCH.replace("math.min(left, ", "math.max(60000, ")
    without.setattr(store, "TOUCH", Script(endless.replace("left <= 0", "false")))
    assert await use() == "alice"
    record_attack("expired, absolute", outcome="nobody", control="goes on for ever")


async def test_key_rotated(
    make_app: MakeApp, browser: MakeBrowser, record_attack: RecordAttack
) -> None:
    old, both, new = (make_app(keys=keys) for keys in (KEYS[:1], [KEYS[1], KEYS[0]], KEYS[1:2]))
    written, untouched = browser(old), browser(old)
    for device in (written, untouched):
        await device.log_in("alice")

    def meets(device: Browser, app: FastAPI) -> Browser:
        moved = browser(app)
        moved.session_id = str(device.session_id)
        return moved

    for device in (written, untouched):
        assert await meets(device, both).user() == "alice"
    change = meets(written, both)
    await change.who()
    await change.put("/data", json={"x": 1})
    assert (await meets(written, new).who())["data"] == {"x": 1}
    assert await meets(untouched, new).user() is None
    record_attack(
        "key rotated", outcome="goes on, written under the new key", control="not written: nobody"
    )


async def test_key_retired(
    make_app: MakeApp, browser: MakeBrowser, record_attack: RecordAttack
) -> None:
    alice = browser(make_app(keys=[KEYS[0]]))
    await alice.log_in("alice")

    async def at(*keys: str) -> str | None:
        other = browser(make_app(keys=list(keys)))
        other.session_id = str(alice.session_id)
        return await other.user()

    assert await at(KEYS[1]) is None
    assert await at(KEYS[1], KEYS[2]) is None
    assert await at(KEYS[1], KEYS[0]) == "alice"
    record_attack("key retired", outcome="nobody", control="with the key: the user")


async def test_oversized_payload(
    make_app: MakeApp, browser: MakeBrowser, record_attack: RecordAttack
) -> None:
    async def fill(app: FastAPI) -> tuple[int, int]:
        visitor = browser(app)
        await visitor.put("/data", json={"x": "small"})
        await visitor.who()
        status = (await visitor.put("/data", json={"x": "x" * 5000})).status_code
        return status, len((await visitor.who())["data"]["x"])

    assert await fill(make_app()) == (500, 5)
    assert await fill(make_app(max_bytes=6000)) == (200, 5000)
    record_attack("oversized payload", outcome="refused, nothing lost", control="is stored")


async def test_rotated_while_everything_ends(
    browser: MakeBrowser, app: FastAPI, redis: Redis
) -> None:
    """A session does not slip through under its next id."""
    alice, thief = browser(), browser()
    await alice.log_in("alice")
    thief.session_id = str(alice.session_id)
    app.state.gate = Gate()
    await thief.who()
    rotating = asyncio.create_task(thief.put("/slowly?rotate=true", json={"x": 1}))
    await app.state.gate.waiting.wait()
    await alice.post("/logout-everywhere")
    app.state.gate.opened.set()
    await rotating
    assert await session_keys(redis) == []
