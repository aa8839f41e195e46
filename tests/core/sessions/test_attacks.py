"""What a session withstands. Each attack is tried once more without the mechanism that stops it.

The table at the end of the run has a row for each.
"""

import re
from base64 import urlsafe_b64encode
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fastapi import FastAPI
from redis.asyncio import Redis

from app.core.sessions import (
    Session,
    Sessions,
    keyring,
    store,
)
from app.core.sessions.keyring import KeyRing, Undecipherable
from tests.core.sessions.conftest import MakeApp, MakeBrowser, RecordAttack
from tests.core.sessions.harness import KEYS, NAME, Browser, application, make_sessions
from tests.core.sessions.looking import all_keys, fields, session_keys, write_fields

UNKNOWN = store.new_id()


async def test_fixation(
    browser: MakeBrowser, without: pytest.MonkeyPatch, record_attack: RecordAttack
) -> None:
    """The attacker's own id is planted in the victim's browser before the login."""

    async def fixate() -> str | None:
        attacker, victim = browser(), browser()
        await attacker.put("/data", json={"planted": True})
        token = (await attacker.who())["token"]
        victim.session_id = str(attacker.session_id)
        victim.remember(token)
        await victim.log_in("alice")
        return await attacker.user()

    assert await fixate() is None

    def log_in_under_the_same_id(session: Session, user: str) -> None:
        session._user = user

    without.setattr(Session, "log_in", log_in_under_the_same_id)
    assert await fixate() == "alice"
    record_attack("fixation", outcome="nobody", control="the attacker is the victim")


async def test_unknown_id(
    browser: MakeBrowser, without: pytest.MonkeyPatch, record_attack: RecordAttack
) -> None:
    """An id that the attacker made up is planted, for the service to use."""

    async def plant() -> str | None:
        victim = browser()
        victim.session_id = UNKNOWN
        assert (await victim.put("/data", json={"cart": "secret"})).status_code == 200
        attacker = browser()
        attacker.session_id = UNKNOWN
        data = (await attacker.who())["data"]
        assert isinstance(data, dict)
        return data.get("cart")

    assert await plant() is None
    opened = Sessions.open

    async def adopt(sessions: Sessions, session_id: str | None) -> Session:
        session = await opened(sessions, session_id)
        if session_id is not None and not session.is_known:
            session._id = session_id
        return session

    without.setattr(Sessions, "open", adopt)
    assert await plant() == "secret"
    record_attack("unknown id", outcome="never taken over", control="the attacker reads it")


@pytest.mark.parametrize(
    "nonsense", ["", "x", "x" * 43, "x" * 45, "*" * 44, "ä" * 44, "../" * 15, "x" * 5000]
)
async def test_what_is_no_id_is_not_looked_up(
    browser: MakeBrowser, redis: Redis, nonsense: str
) -> None:
    before = (await redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
    answer = await browser().get("/who", headers=[(b"cookie", f"{NAME}={nonsense}".encode())])
    after = (await redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
    assert (answer.json()["user"], after) == (None, before)


async def test_stolen_dump(
    browser: MakeBrowser,
    redis: Redis,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
) -> None:
    """Everything in Redis is read, and every piece of it tried as a cookie."""

    async def replay() -> bool:
        await redis.flushall()
        alice = browser()
        await alice.log_in("alice")
        await alice.put("/data", json={"note": "confidential"})
        found = await all_keys(redis)
        for key in await session_keys(redis):
            found += [piece for pair in (await fields(redis, key)).items() for piece in pair]
        for key in await all_keys(redis):
            if ":user:" in key.decode():
                found += cast("list[bytes]", await redis.zrange(key, 0, -1))
        assert not any(b"confidential" in piece for piece in found)
        texts = b" ".join(found).decode("latin-1")
        pieces = {*re.findall(r"[A-Za-z0-9_-]{44}", texts), *re.split(r"[: ]", texts)}
        thief = browser()
        users = []
        for piece in pieces:
            if store.is_id(piece):
                thief.session_id = piece
                users.append(await thief.user())
        # And what a name would be, if it were the id in another form.
        for digest in re.findall(r"[0-9a-f]{64}", texts):
            thief.session_id = urlsafe_b64encode(b"\0" + bytes.fromhex(digest)).decode()
            users.append(await thief.user())
        assert users
        return any(users)

    assert not await replay()
    without.setattr(store, "digest", str)
    assert await replay()
    record_attack("replay of a stolen Redis dump", outcome="nobody", control="the victim")


async def test_a_dump_cannot_be_read(
    make_app: MakeApp,
    browser: MakeBrowser,
    redis: Redis,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
) -> None:
    async def readable(app: FastAPI) -> bool:
        await redis.flushall()
        visitor = browser(app)
        await visitor.put("/data", json={"note": "confidential"})
        [key] = await session_keys(redis)
        return b"confidential" in (await fields(redis, key))[b"blob"]

    assert not await readable(make_app())

    def unencrypted(ring: KeyRing, plain: bytes, **_: str) -> bytes:
        return plain

    without.setattr(KeyRing, "encrypt", unencrypted)
    assert await readable(make_app())
    record_attack("reading a stolen dump", outcome="ciphertext", control="plain text")


async def test_swapped_blob(
    browser: MakeBrowser,
    redis: Redis,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
) -> None:
    """Who can write to Redis copies the victim's session over their own."""

    async def swap() -> str | None:
        await redis.flushall()
        alice, mallory = browser(), browser()
        await alice.log_in("alice")
        [victim] = await session_keys(redis)
        await mallory.log_in("mallory")
        [own] = set(await session_keys(redis)) - {victim}
        await redis.copy(victim.decode(), own.decode(), replace=True)
        return await mallory.user()

    assert await swap() is None
    without.setattr(keyring, "_cipher", lambda key, session: AESGCM(key.key))
    assert await swap() == "alice"
    record_attack("blob swapped between sessions", outcome="nobody", control="the victim")


async def test_tampering(
    alice: Browser, redis: Redis, without: pytest.MonkeyPatch, record_attack: RecordAttack
) -> None:
    """Who can write to Redis changes bits, or when the session ends."""
    [key] = await session_keys(redis)
    honest = await fields(redis, key)
    blob = honest[b"blob"]
    changes: list[dict[bytes, Any]] = [
        {b"blob": blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]}
        for place in range(len(blob))
    ]
    changes += [{b"blob": blob[:length]} for length in (0, 1, 4, 10, 16, 20, len(blob) - 1)]
    later = {b"expires_at": int(honest[b"expires_at"]) + 1000}
    for change in [*changes, later, {b"version": 2}, {b"version": "x"}, {b"expires_at": "x"}]:
        await write_fields(redis, key, honest | change)
        assert await alice.user() is None, change
    await write_fields(redis, key, honest)
    assert await alice.user() == "alice"

    without.setattr(store, "_context", lambda version, expires_at: b"")
    lenient = Browser(application(make_sessions(redis)))
    await redis.flushall()
    await lenient.log_in("alice")
    [key] = await session_keys(redis)
    ends = int((await fields(redis, key))[b"expires_at"]) + 10**9
    await write_fields(redis, key, {b"expires_at": ends})
    assert await lenient.user() == "alice"
    record_attack("tampering", outcome=f"{len(changes) + 4} ways refused", control="lives longer")


@pytest.mark.parametrize("length", [0, 3, 4, 15, 16, 31])
def test_a_blob_of_any_length_is_refused_alike(length: int) -> None:
    ring = KeyRing(KEYS[:1])
    blob = ring.encrypt(b"x", session="s", context=b"c")[:length]
    with pytest.raises(Undecipherable):
        ring.decrypt(blob, session="s", context=b"c")
