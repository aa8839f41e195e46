"""What a session withstands. Each attack is tried once more without the mechanism that stops it.

The table at the end of the run has a row for each.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from app.core.cache import Cache, HttpCacheMiddleware
from app.core.cache.http.checks import UnsafeRoute
from app.core.redis import Script
from app.core.serializers.json import JsonSerializer
from app.core.sessions import (
    Session,
    SessionDependency,
    Sessions,
    UserDependency,
    dependency,
    get_user,
    ids,
    keyring,
    scripts,
    store,
    visit,
)
from app.core.sessions.keyring import KeyRing, Undecipherable
from tests.core.sessions.conftest import MakeApp, MakeBrowser, RecordAttack
from tests.core.sessions.harness import KEYS, NAME, Browser, Gate, application, make_sessions

UNKNOWN = ids.new_id()


async def session_keys(redis: Redis) -> list[bytes]:
    return [key for key in await redis.keys() if b":id:" in key]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Takes a mechanism away, for the control."""
    with monkeypatch.context() as patch:
        yield patch


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
    answer = await browser().get("/who", headers={"cookie": f"{NAME}={nonsense}".encode()})
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
        found = [*await redis.keys()]
        for key in await session_keys(redis):
            found += [item for pair in (await redis.hgetall(key)).items() for item in pair]
        for key in await redis.keys("*:user:*"):
            found += await redis.zrange(key, 0, -1)
        assert not any(b"confidential" in piece for piece in found)
        texts = b" ".join(found).decode("latin-1")
        pieces = {*re.findall(r"[A-Za-z0-9_-]{44}", texts), *re.split(r"[: ]", texts)}
        thief = browser()
        users = []
        for piece in pieces:
            if ids.is_id(piece):
                thief.session_id = piece
                users.append(await thief.user())
        # And what a name would be, if it were the id in another form.
        for digest in re.findall(r"[0-9a-f]{64}", texts):
            thief.session_id = keyring_text(bytes.fromhex(digest))
            users.append(await thief.user())
        assert users
        return any(users)

    assert not await replay()
    without.setattr(ids, "digest", str)
    without.setattr(store, "digest", str)
    assert await replay()
    without.setattr(store, "END_ALL", None)
    record_attack("replay of a stolen Redis dump", outcome="nobody", control="the victim")


def keyring_text(raw: bytes) -> str:
    from base64 import urlsafe_b64encode

    return urlsafe_b64encode(bytes([0]) + raw).decode()


async def test_a_dump_cannot_be_read(
    alice: Browser, redis: Redis, without: pytest.MonkeyPatch, record_attack: RecordAttack
) -> None:
    async def readable() -> bool:
        await alice.put("/data", json={"note": "confidential"})
        await alice.put("/data", json={"note": "confidential still"})
        [key] = await session_keys(redis)
        return b"confidential" in await redis.hget(key, "blob")

    assert not await readable()
    unencrypted = lambda ring, plain, **_: ring._current.name + plain  # noqa: E731
    without.setattr(KeyRing, "encrypt", unencrypted)
    without.setattr(KeyRing, "decrypt", lambda ring, blob, **_: blob[4:])
    bare = Browser(application(make_sessions(redis)))
    await redis.flushall()
    await bare.put("/data", json={"note": "confidential"})
    [key] = await session_keys(redis)
    assert b"confidential" in await redis.hget(key, "blob")
    record_attack("reading a stolen dump", outcome="ciphertext", control="plain text")


async def test_swapped_blob(
    alice: Browser,
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
    without.setattr(keyring, "_cipher", lambda key, session: keyring.AESGCM(key.key))
    assert await swap() == "alice"
    record_attack("blob swapped between sessions", outcome="nobody", control="the victim")


async def test_tampering(
    alice: Browser, redis: Redis, without: pytest.MonkeyPatch, record_attack: RecordAttack
) -> None:
    """Who can write to Redis changes bits, or when the session ends."""
    [key] = await session_keys(redis)
    honest = await redis.hgetall(key)
    blob = honest[b"blob"]
    changes: list[dict[bytes, Any]] = [
        {b"blob": blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]}
        for place in range(len(blob))
    ]
    changes += [{b"blob": blob[:length]} for length in (0, 1, 4, 10, 16, 20, len(blob) - 1)]
    later = {b"ends": int(honest[b"ends"]) + 1000}
    for change in [*changes, later, {b"version": 2}]:
        await redis.hset(key, mapping=honest | change)
        assert await alice.user() is None, change
    await redis.hset(key, mapping=honest)
    assert await alice.user() == "alice"

    without.setattr(store, "_context", lambda version, ends: "")
    lenient = Browser(application(make_sessions(redis)))
    await redis.flushall()
    await lenient.log_in("alice")
    [key] = await session_keys(redis)
    await redis.hset(key, "ends", int(await redis.hget(key, "ends")) + 10**9)
    assert await lenient.user() == "alice"
    record_attack("tampering", outcome=f"{len(changes) + 2} ways refused", control="lives longer")


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
        without.setattr(store, "REPLACE", Script(scripts._REPLACE.replace("return -1", "")))
        without.setattr(
            store, "REPLACE", Script(store.REPLACE.text.replace("version ~= ARGV[5]", "false"))
        )
    else:
        # As a store that writes whatever it is given.
        revive = (
            "redis.call('HSET', KEYS[1], 'blob', ARGV[2], 'version', ARGV[1] + 1, 'ends', ARGV[4])"
            "return 1"
        )
        run = Script(revive).run

        class Revive:
            async def run(self, client: Any, keys: Any, arguments: Any) -> Any:
                return await run(client, keys, [*arguments, ends[-1]])

        ends: list[int] = []
        encrypt = KeyRing.encrypt

        def spy(ring: KeyRing, plain: bytes, *, session: str, context: str) -> bytes:
            ends.append(int(context.split()[1]))
            return encrypt(ring, plain, session=session, context=context)

        without.setattr(KeyRing, "encrypt", spy)
        without.setattr(store, "SAVE", Revive())
    _, user, sessions = await log_out_during_a_request()
    assert (user, sessions) == ("alice", 1)
    record_attack(
        f"resurrection by a slow {'rotation' if rotate else 'request'}",
        outcome="stays logged out",
        control="logged in again",
    )


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
        status = (await late).status_code
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
    async def wait_unused(idle: float) -> str | None:
        alice = browser(make_app(idle_timeout=idle))
        await alice.log_in("alice")
        await asyncio.sleep(0.4)
        return await alice.user()

    assert await wait_unused(0.2) is None
    assert await wait_unused(60) == "alice"
    record_attack("expired, idle", outcome="nobody", control="with more time: still the user")


async def test_using_it_makes_it_last(alice: Browser, redis: Redis) -> None:
    [key] = await session_keys(redis)
    await redis.expire(key, 100)
    await alice.user()
    assert await redis.ttl(key) > 3000


async def test_expired_absolute(
    make_app: MakeApp,
    browser: MakeBrowser,
    redis: Redis,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
) -> None:
    """A session that is used all the time, by whoever has the cookie."""

    async def use() -> str | None:
        alice = browser(make_app(idle_timeout=1.0, absolute_timeout=1.0))
        await alice.log_in("alice")
        await alice.put("/data", json={"x": 1})
        await alice.post("/rotate")  # another id is no more time
        for _ in range(15):
            await asyncio.sleep(0.1)
            await alice.user()
        return await alice.user()

    assert await use() is None
    forever = [text.replace("math.min(left, ", "math.max(60000, ") for text in (scripts._TOUCH,)]
    without.setattr(store, "TOUCH", Script(forever[0].replace("left <= 0", "false")))
    assert await use() == "alice"
    record_attack("expired, absolute", outcome="nobody", control="goes on for ever")


async def test_key_rotated(
    make_app: MakeApp, browser: MakeBrowser, redis: Redis, record_attack: RecordAttack
) -> None:
    old, both, new = (
        make_app(keys=keys) for keys in (KEYS[:1], [KEYS[1], KEYS[0]], KEYS[1:2])
    )
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


async def test_cookie_attributes(
    make_app: MakeApp, browser: MakeBrowser, record_attack: RecordAttack
) -> None:
    async def cookie(base_url: str, **options: Any) -> list[str]:
        visitor = browser(make_app(**options), base_url=base_url)
        answer = await visitor.put("/data", json={"x": 1})
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["vary"] == "Cookie"
        [header] = answer.headers.get_list("set-cookie")
        name, *rules = header.split("; ")
        return [name.partition("=")[0], *sorted(rules)]

    rules = ["HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Lax"]
    strict = [NAME, *rules, "Secure"]
    for base_url in ("https://service", "http://service", "http://localhost", "http://127.0.0.1"):
        assert without_age(await cookie(base_url)) == without_age(strict)
    # In development a browser on the same machine gets along without TLS; no other one does.
    for base_url in ("https://localhost", "http://service", "http://localhost.evil.example"):
        options = {"plain_on_loopback": True}
        assert without_age(await cookie(base_url, **options)) == without_age(strict)
    for base_url in ("http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]"):
        plain = await cookie(base_url, plain_on_loopback=True)
        assert without_age(plain) == without_age(["session", *rules])
    record_attack(
        "cookie attributes", outcome="__Host-, Secure, HttpOnly, Lax", control="only on loopback"
    )


def without_age(parts: list[str]) -> list[str]:
    [age] = [part for part in parts if part.startswith("Max-Age=")]
    assert 43_100 < int(age.removeprefix("Max-Age=")) <= 43_200
    return [part for part in parts if part != age]


def tenant() -> str:
    return "the same for all"


async def leak(redis: Redis, **declared: Any) -> list[str]:
    """What alice and bob see on a cached page that greets them."""
    async with Cache(redis, service="test", serializer=JsonSerializer(), read_timeout=2) as cache:
        app = application(make_sessions(redis))
        page = cache.policy("page", str, ttl=60)

        async def greeting(session: SessionDependency) -> str:
            return str(session.user)

        @app.get("/page")
        @page.http(ignore=["name"], **declared)
        async def show(name: dependency_of(greeting)) -> str:  # type: ignore[valid-type]
            return f"Hello {name}"

        app.add_middleware(HttpCacheMiddleware)
        seen = []
        for user in ("alice", "bob"):
            async with Browser(app) as browser:
                await browser.log_in(user)
                for _ in range(2):
                    answer = await browser.get("/page")
                    assert answer.headers["vary"].lower().count("cookie") == 1
                    assert "public" not in answer.headers["cache-control"]
                seen.append(f"{answer.json()}, {answer.headers['cache-status'].split('; ')[1]}")
        return seen


def dependency_of(call: Any) -> Any:
    from typing import Annotated

    from fastapi import Depends

    return Annotated[str, Depends(call)]


async def test_cached_page(
    redis: Redis, without: pytest.MonkeyPatch, record_attack: RecordAttack
) -> None:
    declared = await leak(redis, vary_by=get_user)
    assert declared == ["Hello alice, hit", "Hello bob, hit"]
    await redis.flushall()
    undeclared = await leak(redis, vary_by=tenant)
    assert undeclared == ["Hello alice, fwd=miss", "Hello bob, fwd=miss"]
    await redis.flushall()
    without.setattr(dependency, "TOUCHED", "nothing looks here")
    assert await leak(redis, vary_by=tenant) == ["Hello alice, hit", "Hello alice, hit"]
    record_attack("cached page leaks a session", outcome="not stored", control="bob is alice")


async def test_a_public_page_with_a_session_does_not_start(redis: Redis) -> None:
    async with Cache(redis, service="test", serializer=JsonSerializer(), read_timeout=2) as cache:
        app = application(make_sessions(redis))

        @app.get("/page")
        @cache.policy("page", str, ttl=60).http(public=True)
        async def show(user: UserDependency) -> str:
            return user

        app.add_middleware(HttpCacheMiddleware)

        async def receive() -> dict[str, str]:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None: ...

        with pytest.raises(UnsafeRoute, match="/page is public and depends on who asks"):
            await app({"type": "lifespan", "state": {}}, receive, send)
        with pytest.raises(TypeError, match="takes session, which is closed"):

            @cache.policy("other", str, ttl=60).http(vary_by=get_user, ignore=["session"])
            async def holds_on(session: SessionDependency) -> str:
                return ""


@pytest.mark.parametrize(
    ("headers", "token", "refused"),
    [
        ({"sec-fetch-site": "cross-site"}, True, True),
        ({"sec-fetch-site": "same-site"}, True, True),
        ({"sec-fetch-site": "cross-site", "origin": "https://service"}, True, True),
        ({"origin": "https://evil.example"}, True, True),
        ({"origin": "https://service.evil.example"}, True, True),
        ({"origin": "null"}, True, True),
        ({}, False, True),
        ({"sec-fetch-site": "same-origin"}, False, True),
        ({"sec-fetch-site": "same-origin", "origin": "https://service"}, True, False),
        ({"origin": "https://service"}, True, False),
        ({"sec-fetch-site": "same-site", "origin": "https://app.example"}, True, False),
        ({}, True, False),
    ],
    ids=str,
)
async def test_csrf(
    make_app: MakeApp,
    browser: MakeBrowser,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
    headers: dict[str, str],
    token: bool,
    refused: bool,
) -> None:
    alice = browser(make_app(trusted_origins=["https://app.example"]))
    await alice.log_in("alice")
    if not token:
        alice.remember("x")
    for method in ("PUT", "POST"):
        path = "/data" if method == "PUT" else "/rotate"
        answer = await alice.request(method, path, json={"stolen": True}, headers=headers)
        assert (answer.status_code == 403) is refused, answer.text
        if method == "PUT":
            assert bool((await alice.get("/who")).json()["data"]) is not refused
    if refused:
        without.setattr(visit, "check_source", lambda *_: None)
        without.setattr(visit, "check_token", lambda *_: None)
        assert (await alice.put("/data", json={"stolen": 1}, headers=headers)).status_code == 200
        if headers == {"origin": "null"}:
            record_attack("CSRF", outcome="403, nothing changed", control="the write is made")


async def test_the_token_is_that_of_the_session(alice: Browser, browser: MakeBrowser) -> None:
    mallory = browser()
    await mallory.log_in("mallory")
    alice.remember((await mallory.who())["token"])
    assert (await alice.put("/data", json={})).status_code == 403


async def test_nobody_is_logged_in_by_a_foreign_page(browser: MakeBrowser) -> None:
    victim = browser()
    answer = await victim.post("/login/mallory", headers={"sec-fetch-site": "cross-site"})
    assert (answer.status_code, victim.session_id) == (403, None)


async def test_reading_is_no_write(alice: Browser) -> None:
    answer = await alice.get("/who", headers={"sec-fetch-site": "cross-site", "x-csrf-token": ""})
    assert answer.json()["user"] == "alice"


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


@pytest.mark.parametrize("length", [0, 3, 4, 15, 16, 31])
def test_a_blob_of_any_length_is_refused_alike(length: int) -> None:
    ring = KeyRing(KEYS[:1])
    blob = ring.encrypt(b"x", session="s", context="c")[:length]
    with pytest.raises(Undecipherable):
        ring.decrypt(blob, session="s", context="c")


async def test_a_token_says_nothing_about_the_id() -> None:
    first, second = ids.new_id(user="alice"), ids.new_id(user="alice")
    assert ids.csrf_token(first) != ids.csrf_token(second)
    assert ids.csrf_token(first) not in (ids.digest(first), first)
    assert isinstance(httpx.Headers({"x-csrf-token": ids.csrf_token(first)}), httpx.Headers)
