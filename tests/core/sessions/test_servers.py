"""Round trips, topologies, and a Redis that is away."""

import re
from collections.abc import Iterator

import pytest
from fastapi import BackgroundTasks
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from app.core.redis import ClientOptions, create_client, is_transient
from app.core.sessions import SessionDependency, Sessions, scripts
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE, until
from tests.core.sessions.harness import Browser, application, make_sessions, open_sessions
from tests.support.asking import ask
from tests.support.cluster import EmbeddedCluster
from tests.support.faultproxy import FaultProxy
from tests.support.sentinel import ReplicatedValkey
from tests.support.states import NOTHING_ANSWERED, WRITES_REFUSED, stateful
from tests.support.versions import VERSIONS
from tests.support.wire import counted_writes

PATIENT = ClientOptions(name="test", timeout=PATIENCE, connect_timeout=PATIENCE)


async def log_in(sessions: Sessions, user: str) -> str:
    session = await sessions.open(None)
    session.log_in(user)
    await session.save()
    cookie = session.new_cookie()
    assert cookie is not None
    return cookie[0]


async def user(sessions: Sessions, session_id: str) -> str | None:
    return (await sessions.open(session_id)).user


async def test_round_trips(redis: Redis) -> None:
    sessions = make_sessions(redis)
    known = await log_in(sessions, "alice")  # connected, and with its scripts known to the server
    warm = await sessions.open(known)
    warm.data["x"] = 0
    await warm.save()
    warm.rotate()
    await warm.save()
    cookie = warm.new_cookie()
    assert cookie is not None
    known = cookie[0]

    with counted_writes() as wire:
        session = await sessions.open(known)
    assert len(wire) == 1, "load and touch"
    with counted_writes() as wire:
        await session.save()
    assert len(wire) == 0, "nothing has changed"
    session.data["x"] = 1
    with counted_writes() as wire:
        await session.save()
    assert len(wire) == 1, "save"
    session.rotate()
    with counted_writes() as wire:
        await session.save()
    assert len(wire) == 1, "rotate"
    with counted_writes() as wire:
        await sessions.open(None)
        await sessions.open("nonsense")
    assert len(wire) == 0, "no cookie"
    with counted_writes() as wire:
        await log_in(sessions, "bob")
    assert len(wire) == 1, "log in"


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


@pytest.mark.slow
async def test_on_a_cluster(cluster: EmbeddedCluster) -> None:
    client = create_client(cluster.url, PATIENT)
    assert isinstance(client, RedisCluster)
    try:
        sessions = make_sessions(client, max_per_user=4)
        for number in range(12):  # their buckets are on different nodes
            name = f"user-{number}"
            visitor = await sessions.open(None)
            visitor.data["cart"] = [number]
            await visitor.save()
            visitor.log_in(name)
            await visitor.save()
            visitor.rotate()
            await visitor.save()
            cookie = visitor.new_cookie()
            assert cookie is not None
            others = [await log_in(sessions, name) for _ in range(5)]
            everywhere = [cookie[0], *others]
            found = [await user(sessions, session_id) for session_id in everywhere]
            assert sorted(map(str, found)) == ["None", "None", *[name] * 4]
            assert await sessions.end_all(name) == 4
            assert [await user(sessions, session_id) for session_id in everywhere] == [None] * 6
    finally:
        await client.aclose()


@pytest.mark.slow
async def test_behind_sentinels_sessions_outlive_their_primary() -> None:
    with ReplicatedValkey() as servers:
        async with open_sessions(servers.url) as sessions:
            known = await log_in(sessions, "alice")
            replica = next(s for s in servers.servers if s is not servers.primary())
            await until(lambda: bool(ask(replica, "KEYS", "*:id:*")))
            old = servers.kill_primary()
            servers.wait_for_new_primary(old)

            async def is_logged_in() -> bool:
                try:
                    return await user(sessions, known) == "alice"
                except RedisError as error:  # of the connections to the old one
                    if not is_transient(error):
                        raise
                    return False

            await until(is_logged_in)


async def test_without_redis_only_session_routes_fail(server: EmbeddedValkey) -> None:
    async with FaultProxy(server.host, server.port) as proxy:
        client = create_client(proxy.url, ClientOptions(name="test", timeout=0.3))
        alice = Browser(application(make_sessions(client)))

        async def is_logged_in() -> bool:
            answer = await alice.get("/who")
            return answer.status_code == 200 and answer.json()["user"] == "alice"

        async def log_in() -> bool:
            answer = await alice.post("/login/alice")
            if answer.status_code == 200:
                alice.remember(answer.json())
            return answer.status_code == 200

        await until(log_in)  # a busy machine may be slower than that time
        for fault in (proxy.refuse, proxy.black_hole):
            await fault()
            assert (await alice.get("/who")).status_code == 503
            assert (await alice.put("/data", json={"x": 1})).status_code == 503
            assert (await alice.get("/nothing")).status_code == 200
            stranger = Browser(application(make_sessions(client)))
            assert await stranger.user() is None, "without a cookie there is nothing to ask"
            answer = await stranger.post("/login/alice")
            assert (answer.status_code, stranger.session_id) == (503, None)
            await stranger.aclose()
            await proxy.heal()
            await until(is_logged_in)
        await alice.aclose()
        await client.aclose()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("word", [*WRITES_REFUSED, "BUSY"])
async def test_a_server_that_refuses_for_now_is_told_from_a_mistake(
    word: str, version: type[EmbeddedValkey]
) -> None:
    with stateful(version) as server:
        client = create_client(server.url, PATIENT)
        alice = Browser(application(make_sessions(client)))
        with (WRITES_REFUSED | NOTHING_ANSWERED)[word](server):
            assert (await alice.post("/login/alice")).status_code == 503
        await alice.log_in("alice")
        await alice.aclose()
        await client.aclose()


async def test_a_write_that_fails_is_told_instead_of_the_response(server: EmbeddedValkey) -> None:
    """The route has said 200 already; what counts is whether the session was written."""
    async with FaultProxy(server.host, server.port) as proxy:
        client = create_client(proxy.url, PATIENT)
        app = application(make_sessions(client))
        after: list[str] = []

        @app.post("/then")
        async def then(session: SessionDependency, tasks: BackgroundTasks) -> str:
            session.data["x"] = 1
            tasks.add_task(after.append, "mail")
            await proxy.refuse()
            return "done"

        async with Browser(app) as alice:
            await alice.log_in("alice")
            answer = await alice.post("/then")
            assert (answer.status_code, answer.json()) == (503, {"detail": "try again"})
            assert after == []
            await proxy.heal()
            assert (await alice.who())["data"] == {}
        await client.aclose()


async def test_a_wrong_password_is_a_mistake_that_no_waiting_mends() -> None:
    with EmbeddedValkey(requirepass="secret") as locked:
        url = f"redis://:wrong@{locked.host}:{locked.port}/0"
        async with open_sessions(url) as sessions, Browser(application(sessions)) as alice:
            assert (await alice.post("/login/alice")).status_code == 500


async def test_a_server_that_is_full() -> None:
    with EmbeddedValkey(maxmemory="5mb", maxmemory_policy="noeviction") as full:
        async with open_sessions(full.url) as sessions, Browser(application(sessions)) as alice:
            await alice.log_in("alice")
            client = create_client(full.url, PATIENT)
            await client.config_set("maxmemory", 1)
            assert (await alice.put("/data", json={"x": 1})).status_code == 503
            await client.config_set("maxmemory", 0)
            await client.aclose()
            assert (await alice.who())["data"] == {}


async def test_the_check_tries_every_command_that_sessions_need(
    server: EmbeddedValkey, redis: Redis
) -> None:
    def commands(*texts: str) -> set[str]:
        return {name for text in texts for name in re.findall(r"redis\.call\('(\w+)'", text)}

    texts = [getattr(scripts, name) for name in ("_TOUCH", "_SAVE", "_CREATE", "_REPLACE")]
    needed = commands(*texts, scripts._END, scripts._END_ALL, scripts._LIST)
    assert needed == commands(scripts._CHECK)

    sessions = make_sessions(redis)
    await sessions.check()
    assert await redis.dbsize() == 0
    may_all = ["ACL", "SETUSER", "limited", "reset", "on", ">p", "~*", "+@all"]
    for command in sorted(needed):
        await redis.execute_command(*may_all, f"-{command.lower()}")
        url = f"redis://limited:p@{server.host}:{server.port}/0"
        async with open_sessions(url) as limited:
            with pytest.raises(RedisError, match=f"(?i){command}"):
                await limited.check()
    await redis.execute_command("ACL", "DELUSER", "limited")


async def test_the_check_notices_a_server_that_takes_no_writes() -> None:
    with EmbeddedValkey(min_replicas_to_write="1") as server:
        async with open_sessions(server.url) as sessions:
            with pytest.raises(RedisError, match=r"(?i)good replicas"):
                await sessions.check()
