"""What a restart or a failover has forgotten was invalidated all the same."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from structlog.testing import capture_logs

from app.core.cache import Cache, CachePolicy
from app.core.cache.server_watch import ServerWatch
from app.core.redis import ClientOptions, FairCluster, create_client
from app.core.serializers.json import JsonSerializer
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import PATIENT, SERVICE, Source, cache_of, keys_of
from tests.support.asking import ask
from tests.support.cluster import SLOTS, ClusterNode, EmbeddedCluster
from tests.support.sentinel import ReplicatedValkey
from tests.support.versions import VERSIONS

Invalidate = Callable[[CachePolicy[str]], Awaitable[None]]

WAYS: dict[str, Invalidate] = {
    "key": lambda policy: policy.invalidate("key", strict=True),
    "tag": lambda policy: cache_of(policy).invalidate_tags("tag", strict=True),
    "clear": lambda policy: policy.clear(strict=True),
}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey]:
    version = getattr(request, "param", EmbeddedValkey)
    with version(repl_diskless_sync_delay=0) as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


def policy_of(cache: Cache) -> CachePolicy[str]:
    return cache.policy("item", str, ttl=3600)


async def read(policy: CachePolicy[str], value: str) -> str:
    return await policy.get_or_load("key", Source(value).load, tags=["tag"])


async def values_until_cached(policy: CachePolicy[str], value: str) -> set[str]:
    """What callers are given from now on, until it comes from Redis."""
    seen: set[str] = set()

    async def is_cached() -> bool:
        source = Source(value)
        seen.add(await policy.get_or_load("key", source.load, tags=["tag"]))
        return source.loads == 0

    await until(is_cached)
    return seen


async def restart_on_snapshot(server: EmbeddedValkey, change: Awaitable[None]) -> None:
    """Make a change that the server has forgotten after a crash."""
    ask(server, "SAVE")
    await change
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.restart)


@pytest.mark.parametrize("server", VERSIONS, indirect=True)
@pytest.mark.parametrize("who", ["the same process", "a new process"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_after_a_restart_on_an_older_snapshot_nothing_old_is_served(
    server: EmbeddedValkey, another: OpenCache, way: Invalidate, who: str
) -> None:
    cache = await another(server.url)
    policy = policy_of(cache)
    assert await read(policy, "old") == "old"
    await restart_on_snapshot(server, way(policy))
    if who == "a new process":
        policy = policy_of(await another(server.url))
    assert await values_until_cached(policy, "new") == {"new"}


async def test_control_without_a_look_at_the_server_the_old_value_is_back(
    server: EmbeddedValkey, another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(*_: object) -> None: ...

    monkeypatch.setattr(ServerWatch, "check_connection", nobody)
    policy = policy_of(await another(server.url))
    assert await read(policy, "old") == "old"
    await restart_on_snapshot(server, WAYS["key"](policy))
    assert "old" in await values_until_cached(policy, "new")  # the violation


async def test_a_policy_that_only_another_version_of_the_service_has_is_dropped_by_that(
    server: EmbeddedValkey, another: OpenCache
) -> None:
    policy = policy_of(await another(server.url))
    assert await read(policy, "old") == "old"
    await restart_on_snapshot(server, WAYS["key"](policy))
    other = (await another(server.url)).policy("new-in-this-version", str, ttl=60)
    await other.get_or_load("key", Source("value").load)
    assert await values_until_cached(policy, "new") == {"new"}


async def test_connections_to_the_same_server_drop_nothing(
    server: EmbeddedValkey, another: OpenCache
) -> None:
    policy, source = policy_of(await another(server.url)), Source("value")
    await policy.get_or_load("key", source.load)
    with EmbeddedValkey(replicaof=(server.host, server.port)) as replica:  # its first one
        await until(lambda: ask(replica, "ROLE")[3] == "connected")
        admin = Redis(port=server.port)
        await admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await admin.aclose()
        for one in (policy, policy_of(await another(server.url))):

            async def is_cached(policy: CachePolicy[str] = one) -> bool:
                loads = source.loads
                await policy.get_or_load("key", source.load)
                return source.loads == loads

            await until(is_cached)
    assert source.loads <= 2  # the connection that was killed may have cost one


@pytest.mark.parametrize("command", ["info", "hgetall"])
async def test_without_a_command_it_works_and_says_what_it_cannot_notice(
    server: EmbeddedValkey, another: OpenCache, command: str
) -> None:
    ask(server, "ACL", "SETUSER", "poor", "on", ">secret", "~*", "&*", "+@all", f"-{command}")
    url = f"redis://poor:secret@{server.host}:{server.port}/0"
    with capture_logs() as logs:
        cache = await another(url)
        policy = policy_of(cache)
        assert await read(policy, "old") == "old"
        assert await read(policy, "new") == "old"
        await asyncio.gather(*(policy.get_or_load(key, Source("a").load) for key in range(20)))
        await policy.invalidate("key", strict=True)
    assert [entry["event"] for entry in logs].count("cache.servers_unknown") == 1
    assert await read(policy, "new") == "new"
    await cache.check()


@pytest.mark.parametrize("why", ["evicted", "never written"])
async def test_what_the_server_does_not_say_where_it_was_is_dropped(
    server: EmbeddedValkey, another: OpenCache, why: str
) -> None:
    def permit() -> None:
        denied = ["-hset"] if why == "never written" else []
        ask(server, "ACL", "SETUSER", "poor", "on", ">secret", "~*", "&*", "+@all", *denied)

    permit()
    url = f"redis://poor:secret@{server.host}:{server.port}/0"
    policy = policy_of(await another(url))
    assert await read(policy, "old") == "old"
    ask(server, "DEL", cache_of(policy).keyspace.servers)
    await restart_on_snapshot(server, WAYS["key"](policy))
    permit()
    assert await values_until_cached(policy_of(await another(url)), "new") == {"new"}


async def test_processes_that_start_on_a_new_server_drop_nothing_and_log_nothing(
    server: EmbeddedValkey, another: OpenCache
) -> None:
    source = Source("value")
    with capture_logs() as logs:
        for _ in range(3):
            policy = policy_of(await another(server.url))
            crowd = [policy.get_or_load("key", source.load) for _ in range(20)]
            await asyncio.gather(*crowd)
    assert source.loads == 1
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []


async def lose_writes_in_a_failover(servers: ReplicatedValkey, change: Awaitable[None]) -> None:
    """Make a change that the replica never hears of, before it takes over."""
    primary = servers.primary()
    replica = next(server for server in servers.servers if server is not primary)
    await until(lambda: ask(primary, "WAIT", 1, 1_000) == 1)
    ask(replica, "CONFIG", "SET", "masteruser", "nobody")
    ask(replica, "CONFIG", "SET", "masterauth", "wrong")
    ask(primary, "CLIENT", "KILL", "TYPE", "replica")
    await until(lambda: ask(replica, "ROLE")[3] != "connected")
    await change
    await asyncio.to_thread(servers.kill_primary)
    await asyncio.to_thread(servers.wait_for_new_primary, primary, 60)


@pytest.mark.slow
@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "control"])
async def test_after_a_failover_that_loses_invalidations_nothing_old_is_served(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch, noticed: bool
) -> None:
    if not noticed:

        async def nobody(*_: object) -> None: ...

        monkeypatch.setattr(ServerWatch, "check_connection", nobody)
    with ReplicatedValkey() as servers:
        here, there = [policy_of(await another(servers.url)) for _ in range(2)]
        assert [await read(policy, "old") for policy in (here, there)] == ["old", "old"]
        await lose_writes_in_a_failover(servers, WAYS["key"](here))
        policies = [there, here, policy_of(await another(servers.url))]
        seen = [await values_until_cached(policy, "new") for policy in policies]
        assert seen == [{"new"}] * 3 if noticed else "old" in set.union(*seen)
        for policy in policies:  # before the servers are gone
            await cache_of(policy).__aexit__(None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_a_node_of_a_cluster_that_forgets_is_noticed(
    cluster: EmbeddedCluster, another: OpenCache, way: Invalidate
) -> None:
    for node in cluster.nodes:
        ask(node, "FLUSHALL")
    policy = policy_of(await another(cluster.url))
    assert await read(policy, "old") == "old"
    keys = keys_of(policy, "key", ["tag"])
    changed = {
        WAYS["key"]: keys.value,
        WAYS["tag"]: keys.versions[1],
        WAYS["clear"]: keys.versions[0],
    }[way]
    node = owner(cluster, changed)
    await restart_on_snapshot(node, way(policy))
    await asyncio.to_thread(cluster.wait_until_ready)
    for one in (policy, policy_of(await another(cluster.url))):
        assert await values_until_cached(one, "new") == {"new"}


def owner(cluster: EmbeddedCluster, key: str) -> ClusterNode:
    return cluster.nodes[key_slot(key.encode()) * len(cluster.nodes) // SLOTS]


@asynccontextmanager
async def process(url: str) -> AsyncIterator[tuple[FairCluster, CachePolicy[str]]]:
    """A process that does nothing in the background, and then is gone all at once."""
    options = ClientOptions(name="test", timeout=PATIENT, connect_timeout=PATIENT)
    client = create_client(url, options)
    assert isinstance(client, FairCluster)
    try:
        yield client, policy_of(Cache(client, service=SERVICE, serializer=JsonSerializer()))
    finally:
        await client.aclose()


@pytest.mark.slow
async def test_a_process_that_dies_before_it_has_dropped_anything_leaves_it_to_the_next(
    cluster: EmbeddedCluster, another: OpenCache
) -> None:
    for node in cluster.nodes:
        ask(node, "FLUSHALL")
    policy = policy_of(await another(cluster.url))
    assert await read(policy, "old") == "old"
    node = owner(cluster, keys_of(policy, "key").value)
    await restart_on_snapshot(node, WAYS["key"](policy))
    await asyncio.to_thread(cluster.wait_until_ready)
    async with process(cluster.url) as (_, dying):
        assert await read(dying, "new") == "new"
    assert await values_until_cached(policy_of(await another(cluster.url)), "new") == {"new"}
    later = policy_of(await another(cluster.url))
    assert await read(later, "newer") == "new"  # it has been dropped, and not once more


@pytest.mark.slow
@pytest.mark.parametrize("is_left_out", [True, False], ids=["has no slots", "has all slots"])
async def test_a_node_that_was_met_while_the_map_of_the_slots_was_wrong_is_met_again(
    cluster: EmbeddedCluster, another: OpenCache, is_left_out: bool
) -> None:
    for node in cluster.nodes:
        ask(node, "FLUSHALL")
    policy = policy_of(await another(cluster.url))
    others = owner(cluster, "0")  # the first hash tag
    key = next(
        key
        for key in map(str, range(100))
        if owner(cluster, keys_of(policy, key).value) is not others
    )
    assert await policy.get_or_load(key, Source("old").load) == "old"
    node = owner(cluster, keys_of(policy, key).value)
    await restart_on_snapshot(node, policy.invalidate(key, strict=True))
    await asyncio.to_thread(cluster.wait_until_ready)
    async with process(cluster.url) as (client, late):
        await client.initialize()
        met = client.get_node(node.host, node.port)
        has = client.get_node(others.host, others.port) if is_left_out else met
        client.nodes_manager.slots_cache = {slot: [has] for slot in range(SLOTS)}
        client.rediscover()
        await met.execute_command("CLUSTER SLOTS")  # as the client does
        assert await late.get_or_load(key, Source("new").load) == "new"
