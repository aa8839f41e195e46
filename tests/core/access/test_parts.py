"""The service's own parts do their work under the rules that the template ships, everywhere."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from app.core.access import DEVELOPMENT_SECRET, Policy, RedisCredentials
from app.core.access.acl import acl_users
from app.core.cache import Cache
from app.core.events import Event, Events
from app.core.locks import Locks
from app.core.locks.metrics import renewals
from app.core.locks.node import Node
from app.core.redis import ClientOptions, RedisClient, create_client, report, with_login
from app.core.serializers.json import JsonSerializer
from app.core.sessions import Sessions
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.support.cluster import EmbeddedCluster
from tests.support.sentinel import ReplicatedValkey
from tests.template.access_rules import shipped_policy

CREDENTIALS = RedisCredentials("orders", [DEVELOPMENT_SECRET])


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The policy of a service with everything."""
    return shipped_policy(tmp_path_factory.mktemp("policy"), "orders")


MANY_SERVERS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("sentinel", "cluster")]


@pytest.fixture(scope="module", params=["standalone", *MANY_SERVERS])
def url(request: pytest.FixtureRequest, shipped: Policy) -> Iterator[str]:
    match request.param:
        case "standalone":
            with EmbeddedValkey() as server:
                _put_under_rules([server], shipped)
                yield server.url
        case "sentinel":
            with ReplicatedValkey() as replicated:
                _put_under_rules(replicated.servers, shipped)
                yield replicated.url
        case "cluster":
            with EmbeddedCluster() as cluster:
                _put_under_rules(cluster.nodes, shipped)
                yield cluster.url


def _put_under_rules(servers: Sequence[EmbeddedValkey], policy: Policy) -> None:
    for server in servers:
        with Redis(port=server.port) as admin:
            for user, rules in acl_users(policy, CREDENTIALS).items():
                admin.execute_command("ACL", "SETUSER", user, *rules)


class Connect:
    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack

    def __call__(self, role: str, credentials: RedisCredentials = CREDENTIALS) -> RedisClient:
        login = with_login(self._url, credentials.user(role), credentials.password(role))
        options = ClientOptions(name=role, timeout=HANG, connect_timeout=HANG, pool_timeout=HANG)
        client = create_client(login, options)
        self._stack.push_async_callback(client.aclose)
        return client


@pytest.fixture
async def connect(url: str) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:
        yield Connect(url, stack)


async def test_cache(connect: Connect) -> None:
    cache = Cache(
        connect("cache"),
        service="orders",
        serializer=JsonSerializer(),
        read_timeout=HANG,
        near_bytes=100_000,
        near_client=connect("cache"),
    )
    async with cache:
        await cache.check()
        entries = cache.policy("numbers", int, ttl=60)
        loads = 0

        async def load() -> int:
            nonlocal loads
            loads += 1
            return loads

        for _ in range(2):
            assert await entries.get_or_load("one", load, tags=["a", "b"]) == 1
        await cache.invalidate_tags("a")
        assert await entries.get_or_load("one", load, tags=["a", "b"]) == 2
        await entries.invalidate("one")
        assert await entries.get_or_load("one", load) == 3
        await entries.clear()
        assert await entries.get_or_load("one", load) == 4


async def test_locks(connect: Connect) -> None:
    client = connect("locks")
    async with Locks(Node(client, timeout=HANG), prefix="orders:lock", quarantine=0.05) as locks:
        renewed = renewals.labels("renewed")
        before = renewed._value.get()
        async with locks.hold("a", ttl=3, timeout=HANG) as first:
            waiting = asyncio.create_task(_hold(locks))
            await until(lambda: renewed._value.get() > before)  # and the other one listens
            assert not waiting.done()
        assert await waiting > first.fence
    assert (await report(client)).version


async def _hold(locks: Locks) -> int:
    async with locks.hold("a", ttl=30, timeout=HANG) as lease:
        return lease.fence


async def test_sessions(connect: Connect) -> None:
    client = connect("sessions")
    sessions = Sessions(
        client,
        prefix="orders:session",
        keys=["a key"],
        idle_timeout=60,
        absolute_timeout=600,
    )
    session = await sessions.open(None)
    session.log_in("ann")
    await session.save()
    session.data["x"] = 1
    await session.save()
    session.rotate()
    await session.save()
    await session.log_out_everywhere()
    assert (await report(client)).version


class Told(Event, name="told"):
    number: int


async def test_events(connect: Connect) -> None:
    events = Events(connect("events"), service="orders")
    heard = asyncio.Event()

    @events.on("orders", Told)
    async def hear(event: Told) -> None:
        heard.set()

    async with events, asyncio.timeout(HANG):
        await events.publish(Told(number=1))
        await heard.wait()


async def test_your_own_commands(connect: Connect) -> None:
    redis = connect("service")
    await redis.set("orders:data:x", "y")
    with pytest.raises(NoPermissionError):
        await redis.get("orders:session:x")
    assert (await report(redis)).version


async def test_events_of_another_service_need_its_stream_and_channel(
    shipped: Policy, tmp_path: Path
) -> None:
    billing = shipped_policy(tmp_path, "billing")
    allowed = billing.roles["events"].model_copy(
        update={
            "read": ("orders:events:*:stream",),
            "channels": ("billing:events", "orders:events"),
        }
    )
    credentials = RedisCredentials("billing", [DEVELOPMENT_SECRET])
    with EmbeddedValkey() as server:
        _put_under_rules([server], shipped)
        for role, heard_all in (billing.roles["events"], False), (allowed, True):
            with Redis(port=server.port) as admin:
                for user, rules in acl_users(
                    replace(billing, roles={"events": role}), credentials
                ).items():
                    admin.execute_command("ACL", "SETUSER", user, "reset", *rules)
            async with AsyncExitStack() as stack:
                connect = Connect(server.url, stack)
                publisher = await stack.enter_async_context(
                    Events(connect("events"), service="orders")
                )
                subscriber = Events(connect("events", credentials), service="billing")
                heard = asyncio.Event()

                @subscriber.on("orders", Told)
                async def hear(event: Told, heard: asyncio.Event = heard) -> None:
                    heard.set()

                await stack.enter_async_context(subscriber)
                await publisher.publish(Told(number=1))
                with suppress(TimeoutError):
                    async with asyncio.timeout(HANG if heard_all else 1):
                        await heard.wait()
                assert heard.is_set() is heard_all
