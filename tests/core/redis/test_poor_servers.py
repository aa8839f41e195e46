"""Behind a proxy without optional commands, everything works that does not need them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from app.core.cache import Cache
from app.core.events import Event, Events
from app.core.locks import Locks
from app.core.locks.node import Node
from app.core.redis import ClientOptions, create_client
from app.core.serializers.json import JsonSerializer
from app.core.sessions import Sessions
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE, until
from tests.core.redis.conftest import Connect
from tests.support.cluster import EmbeddedCluster
from tests.support.poorproxy import PoorProxy
from tests.support.sentinel import ReplicatedValkey

PATIENT: dict[str, Any] = {"timeout": PATIENCE, "connect_timeout": PATIENCE}
POOR = [
    pytest.param([], id="with everything"),
    pytest.param(["HELLO"], id="without HELLO"),
    pytest.param(["CLIENT"], id="without CLIENT"),
    pytest.param(["HELLO", "CLIENT", "INFO"], id="without all of them"),
]


@asynccontextmanager
async def behind(server: EmbeddedValkey, without: list[str]) -> AsyncIterator[PoorProxy]:
    async with PoorProxy(server.host, server.port, without=without) as proxy:
        yield proxy


@pytest.mark.parametrize("without", POOR)
async def test_replies_are_the_same(
    redis: Redis, server: EmbeddedValkey, connect: Connect, without: list[str]
) -> None:
    await redis.hset("hash", mapping={"a": "1"})
    await redis.zadd("scores", {"a": 1.5})
    await redis.xadd("stream", {"a": "1"}, id="1-1")
    async with behind(server, without) as proxy:
        poor = connect(proxy.url, **PATIENT)
        for client in (redis, poor):
            assert await client.hgetall("hash") == {b"a": b"1"}
            assert await client.zrange("scores", 0, -1, withscores=True) == [(b"a", 1.5)]
            assert await client.xrange("stream") == [(b"1-1", {b"a": b"1"})]
            assert await client.zscore("scores", "a") == 1.5
            assert await client.config_get("maxmemory") == {"maxmemory": "0"}


@pytest.mark.parametrize("without", POOR)
async def test_what_is_missing_is_said_once(
    redis: Redis, server: EmbeddedValkey, connect: Connect, without: list[str]
) -> None:
    async with behind(server, without) as proxy:
        client = connect(proxy.url, pool_size=4, **PATIENT)
        with capture_logs() as logs:
            await client.ping()
            await asyncio.gather(*(client.blpop(["nothing"], 0.01) for _ in range(4)))
    said = [line["what"] for line in logs if line["event"] == "redis.feature_missing"]
    assert len(said) == ("CLIENT" in without)


async def test_connections_that_are_made_at_once_all_go_without(
    server: EmbeddedValkey, connect: Connect
) -> None:
    async with behind(server, ["CLIENT"]) as proxy:
        client = connect(proxy.url, pool_size=8, **PATIENT)
        with capture_logs() as logs:
            await asyncio.gather(*(client.blpop(["nothing"], 0.01) for _ in range(8)))
    assert [line["event"] for line in logs] == ["redis.feature_missing"]


async def test_a_password_works_without_hello(connect: Connect) -> None:
    with EmbeddedValkey(requirepass="secret") as server:
        async with behind(server, ["HELLO", "CLIENT"]) as proxy:
            with_login = proxy.url.replace("://", "://:secret@")
            assert await connect(with_login, **PATIENT).ping()
            wrong = connect(proxy.url.replace("://", "://:wrong@"), **PATIENT)
            with pytest.raises(RedisError, match="invalid username-password"):
                await wrong.ping()


async def test_another_database_is_refused_where_there_is_none(
    server: EmbeddedValkey, connect: Connect
) -> None:
    """Going without it would put everything into the wrong place."""
    async with behind(server, ["SELECT"]) as proxy:
        assert await connect(proxy.url, **PATIENT).ping()
        with pytest.raises(RedisError):
            await connect(proxy.url.replace("/0", "/1"), **PATIENT).ping()


class Told(Event, name="told"):
    number: int


@pytest.mark.parametrize("without", POOR)
async def test_all_parts_do_their_work(
    redis: Redis, server: EmbeddedValkey, without: list[str]
) -> None:
    async with behind(server, without) as proxy, AsyncExitStack() as stack:

        def client(name: str) -> Redis:
            options = ClientOptions(name=name, pool_timeout=PATIENCE, **PATIENT)
            made = create_client(proxy.url, options)
            stack.push_async_callback(made.aclose)
            assert isinstance(made, Redis)
            return made

        cache = await stack.enter_async_context(
            Cache(
                client("cache"),
                service="poor",
                serializer=JsonSerializer(),
                read_timeout=PATIENCE,
                near_bytes=100_000,
                near_client=client("near"),
            )
        )
        numbers = cache.policy("numbers", int, ttl=60, near_ttl=30)
        loads = 0

        async def load() -> int:
            nonlocal loads
            loads += 1
            return loads

        assert [await numbers.get_or_load("one", load) for _ in range(3)] == [1, 1, 1]
        await numbers.invalidate("one")
        assert await numbers.get_or_load("one", load) == 2

        locks = Locks(Node(client("locks"), timeout=PATIENCE), prefix="poor:lock", quarantine=0)
        await stack.enter_async_context(locks)
        async with locks.hold("a", ttl=30, timeout=PATIENCE):
            pass

        sessions = Sessions(client("sessions"), prefix="poor:session", keys=["a key" * 10])
        session = await sessions.open(None)
        session.log_in("ann")
        await session.save()

        events = Events(client("events"), service="poor")
        heard: list[int] = []

        @events.on("poor", Told)
        async def hear(event: Told) -> None:
            heard.append(event.number)

        await stack.enter_async_context(events)
        await events.publish(Told(number=1), strict=True)
        await until(lambda: heard == [1])


async def test_after_a_demotion_connections_are_made_anew(connect: Connect) -> None:
    """The name in the URL leads to another server by then, as that of a cloud provider does."""
    with EmbeddedValkey() as former, EmbeddedValkey() as promoted:
        proxy = PoorProxy(former.host, former.port, without=[])
        async with proxy:
            client = connect(proxy.url, pool_size=3, **PATIENT)
            await asyncio.gather(*(client.blpop(["nothing"], 0.01) for _ in range(3)))
            async with connect(former.url).client() as admin:
                await admin.replicaof(promoted.host, promoted.port)
            proxy.lead_to(promoted.host, promoted.port)
            with pytest.raises(RedisError):
                await client.set("x", "y")
            # All three, those that were idle meanwhile among them.
            await asyncio.gather(*(client.set(f"x{n}", "y") for n in range(3)))


@pytest.mark.slow
async def test_sentinels_and_clusters_share_what_they_learn() -> None:
    for servers in (ReplicatedValkey(), EmbeddedCluster()):
        with servers:
            client = create_client(servers.url, ClientOptions(name="test", **PATIENT))
            await client.set("x", "y")
            with capture_logs() as logs, pytest.raises(RedisError):
                await client.eval("return redis.call('GETALL')", 1, "x")
            await client.aclose()
        assert [line["code"] for line in logs if line["event"] == "redis.refused"] == ["UNKNOWN"]
