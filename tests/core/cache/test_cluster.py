"""On a cluster keys live on several nodes: the same rules, and every step asks all in parallel."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import redis.asyncio.connection as connections
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.crc import key_slot

from app.core.cache import Cache, CachePolicy
from app.core.redis import ClientOptions, create_client
from app.core.redis.cluster import FairCluster
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Source, cache_of, is_healthy, keys_of
from tests.support.cluster import SLOTS, EmbeddedCluster

pytestmark = pytest.mark.slow

TURNS = 100
"""Of the event loop; more than it takes to send a command on each connection."""
TAGS = [f"tag:{number}" for number in range(10)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


@pytest.fixture
async def cache(cluster: EmbeddedCluster, another: OpenCache) -> AsyncIterator[Cache]:
    for node in cluster.nodes:
        ask(node, "FLUSHALL")
    cache = await another(cluster.url)
    warm = cache.policy("warm-up", int, ttl=60)
    # Every node is connected to, with as many connections as the tests need, and knows the scripts.
    await asyncio.gather(*(warm.get_or_load(key, Source(1).load, tags=TAGS) for key in range(60)))
    await cache.invalidate_tags(*TAGS)
    yield cache
    for node in cluster.nodes:
        ask(node, "CONFIG", "SET", "maxmemory", 0)


@pytest.fixture
def policy(cache: Cache) -> CachePolicy[int]:
    return cache.policy("item", int, ttl=60)


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Writes per step: a write that follows a reply begins a new one."""
    steps: list[int] = []
    answered = True
    send = connections.AbstractConnection.send_packed_command
    receive = connections.AbstractConnection.read_response

    async def sending(self: Any, *arguments: Any, **options: Any) -> None:
        nonlocal answered
        if answered:
            steps.append(0)
        answered = False
        steps[-1] += 1
        await send(self, *arguments, **options)

    async def receiving(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal answered
        for _ in range(TURNS):
            await asyncio.sleep(0)  # whatever is sent at the same time is sent by now
        try:
            return await receive(self, *arguments, **options)
        finally:
            answered = True

    monkeypatch.setattr(connections.AbstractConnection, "send_packed_command", sending)
    monkeypatch.setattr(connections.AbstractConnection, "read_response", receiving)
    return steps


async def test_a_miss_has_three_steps_and_a_hit_one(
    policy: CachePolicy[int], phases: list[int]
) -> None:
    source = Source(1)
    await policy.get_or_load("key", source.load, tags=TAGS)
    assert len(phases) == 3
    phases.clear()
    await policy.get_or_load("key", source.load, tags=TAGS)
    assert len(phases) == 1
    assert phases[0] <= 3  # one write per node, however many keys
    assert source.loads == 1


async def test_an_invalidation_has_a_step_for_each_thing_that_must_not_come_before_another(
    cache: Cache, policy: CachePolicy[int], phases: list[int]
) -> None:
    await policy.invalidate(*range(30))
    assert len(phases) == 3  # leases, entries, the announcement
    await cache.invalidate_tags(*TAGS)
    await policy.clear()
    assert len(phases) == 3 + 2 + 2


async def test_many_have_three_steps_and_one(policy: CachePolicy[int], phases: list[int]) -> None:
    async def load(keys: Sequence[int]) -> dict[int, int]:
        return {key: -key for key in keys}

    for steps in (3, 1):
        found = await policy.get_or_load_many(range(20), load, tags=TAGS)
        assert found == {key: -key for key in range(20)}
        assert len(phases) == steps
        phases.clear()


async def test_thousands_of_keys_are_invalidated_at_once(
    cache: Cache, policy: CachePolicy[int]
) -> None:
    keys = range(4_000)
    source = Source(1)
    await policy.get_or_load(keys[-1], source.load)
    await policy.invalidate(*keys, strict=True)
    await policy.get_or_load(keys[-1], source.load)
    assert source.loads == 2


async def test_thousands_of_queued_invalidations_are_carried_out(
    cache: Cache, policy: CachePolicy[int]
) -> None:
    cache._breaker.open("a test")
    await policy.invalidate(*range(4_000))
    await cache.invalidate_tags(*(f"queued:{number}" for number in range(1_000)))

    await until(partial(is_healthy, cache))


async def test_tags_and_clears_reach_entries_on_every_node(
    cache: Cache, policy: CachePolicy[int]
) -> None:
    source = Source(1)

    async def read_all() -> int:
        source.loads = 0
        for key in range(12):
            await policy.get_or_load(key, source.load, tags=[f"parity:{key % 2}"])
        return source.loads

    assert [await read_all(), await read_all()] == [12, 0]
    await cache.invalidate_tags("parity:1")
    assert [await read_all(), await read_all()] == [6, 0]
    await policy.clear()
    assert [await read_all(), await read_all()] == [12, 0]
    await policy.invalidate(*range(12))
    assert [await read_all(), await read_all()] == [12, 0]


async def test_a_lease_is_given_back_when_another_node_refuses_a_version(
    cluster: EmbeddedCluster, cache: Cache, policy: CachePolicy[int]
) -> None:
    for key in range(30):  # the version of the policy exists afterwards
        await policy.get_or_load(("before", key), Source(1).load)
    ask(cluster.nodes[0], "CONFIG", "SET", "maxmemory", 1)
    for key in range(30):
        tags = [f"new:{key}"]
        async with asyncio.timeout(HANG):
            assert await policy.get_or_load(key, Source(key).load, tags=tags) == key

    async def no_lease_is_left() -> bool:
        return not any(leases(node) for node in cluster.nodes)

    await until(no_lease_is_left)


async def test_one_dead_node_does_not_keep_reads_from_answering(
    cluster: EmbeddedCluster, another: OpenCache
) -> None:
    impatient = await another(cluster.url, read_timeout=0.1, command_timeout=0.2)
    policy = impatient.policy("item", int, ttl=60)
    await policy.get_or_load("warm-up", Source(1).load, tags=TAGS)
    cluster.nodes[0].freeze()
    try:
        for key in range(30):
            assert await policy.get_or_load(key, Source(key).load, tags=TAGS) == key
    finally:
        cluster.nodes[0].thaw()

    await asyncio.to_thread(cluster.wait_until_ready)
    await until(partial(is_healthy, impatient))


def ask(node: EmbeddedValkey, *command: str | int) -> Any:
    with SyncRedis(port=node.port) as client:
        return client.execute_command(*command)


def leases(node: EmbeddedValkey) -> list[Any]:
    with SyncRedis(port=node.port) as client:
        return list(client.scan_iter(match="*:lease", count=1000))


async def test_near_caches_hear_of_invalidations_wherever_their_link_is(
    cluster: EmbeddedCluster, cache: Cache, another: OpenCache
) -> None:
    async with AsyncExitStack() as stack:
        policies = []
        for number in range(3):
            client = create_client(cluster.url, ClientOptions(name=f"near-{number}"))
            stack.push_async_callback(client.aclose)
            one = await another(cluster.url, near_bytes=100_000, near_client=client)
            near = one._near
            assert near is not None
            await until(partial(getattr, near, "is_online"))
            policies.append(one.policy("item", int, ttl=60, near_ttl=30))
        for policy in policies:
            for _ in range(2):
                assert await policy.get_or_load(1, Source(1).load) == 1
        await policies[0].invalidate(1)

        async def all_heard() -> bool:
            return {await policy.get_or_load(1, Source(2).load) for policy in policies} == {2}

        await until(all_heard)
        # Before the clients are closed.
        for policy in policies:
            await cache_of(policy).__aexit__(None, None, None)


@pytest.mark.parametrize("what", ["key", "tag"])
async def test_an_announcement_does_not_overtake_what_it_announces(
    cluster: EmbeddedCluster, cache: Cache, policy: CachePolicy[int], what: str
) -> None:
    """Whoever heard of it too early would ask again, and keep the old entry for longer."""
    keys = keys_of(policy, "key", TAGS)
    await policy.get_or_load("key", Source(1).load, tags=TAGS)
    held = keys.value if what == "key" else keys.versions[-1]
    node = cluster.nodes[key_slot(held.encode()) * len(cluster.nodes) // SLOTS]
    news: list[Any] = []
    async with AsyncExitStack() as stack:
        for listening in cluster.nodes:
            if listening is not node:
                client = Redis(port=listening.port)
                stack.push_async_callback(client.aclose)
                pubsub = await stack.enter_async_context(client.pubsub())
                await pubsub.subscribe(cache.keyspace.channel)
                assert await pubsub.get_message(timeout=HANG)
                news.append(pubsub)
        node.freeze()
        try:
            work = policy.invalidate("key") if what == "key" else cache.invalidate_tags(*TAGS)
            invalidation = asyncio.create_task(work)
            for pubsub in news:
                assert await pubsub.get_message(timeout=0.5) is None
            assert not invalidation.done()
        finally:
            node.thaw()
        await invalidation
        for pubsub in news:
            assert await pubsub.get_message(timeout=HANG)


async def test_a_client_that_others_keep_busy_is_no_outage(
    cluster: EmbeddedCluster, another: OpenCache
) -> None:
    # A read gives up before the pool does.
    busy = await another(cluster.url, read_timeout=1, pool_timeout=5, breaker_threshold=1)
    policy = busy.policy("item", int, ttl=60)
    await policy.get_or_load(1, Source(1).load)
    client = busy._store._client
    assert isinstance(client, FairCluster)
    held = 0
    while not client.is_exhausted:
        await client._pipelines.acquire()
        held += 1
    assert await policy.get_or_load(2, Source(2).load) == 2  # the loader answers
    invalidating = asyncio.create_task(policy.invalidate(*range(10), strict=True))
    done, _ = await asyncio.wait([invalidating], timeout=0.2)
    assert not done
    assert await is_healthy(busy)
    for _ in range(held):
        client._pipelines.release()
    await invalidating
    assert await policy.get_or_load(1, Source(3).load) == 3
    assert await is_healthy(busy)
