"""While a slot of the cluster moves to another node its keys are on both, and all goes on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.crc import key_slot
from redis.exceptions import NoPermissionError

from app.core.cache import Cache, CachePolicy
from app.core.redis import ClientOptions, RedisClient, create_client
from devservers.valkey import EmbeddedValkey
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import PATIENT, Source, breaker_is_open, keys_of, queued_invalidations
from tests.support.asking import ask
from tests.support.cluster import SLOTS, EmbeddedCluster

pytestmark = pytest.mark.slow

TAG = "tag"


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


@pytest.fixture
async def caches(cluster: EmbeddedCluster, another: OpenCache) -> list[Cache]:
    for node in cluster.nodes:
        ask(node, "FLUSHALL")
    return [await another(cluster.url), await another(cluster.url)]


@asynccontextmanager
async def moving(cluster: EmbeddedCluster, key: str) -> AsyncIterator[EmbeddedValkey]:
    """The slot of a key on its way, with none of its keys moved yet; gives the node it goes to."""
    slot = key_slot(key.encode())
    number = slot * len(cluster.nodes) // SLOTS
    source, target = cluster.nodes[number], cluster.nodes[number - 1]
    ids = {node: ask(node, "CLUSTER", "MYID") for node in (source, target)}
    ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    yield target
    for node in (source, target):
        ask(node, "CLUSTER", "SETSLOT", slot, "STABLE")


def names(policy: CachePolicy[str], key: str) -> dict[str, str]:
    keys = keys_of(policy, key, [TAG])
    return {"entry": keys.value, "policy": keys.versions[0], "tag": keys.versions[1]}


@pytest.mark.parametrize("moved", [False, True], ids=["still there", "moved"])
@pytest.mark.parametrize("what", ["entry", "policy", "tag"])
async def test_what_moves_is_invalidated(
    cluster: EmbeddedCluster, caches: list[Cache], what: str, moved: bool
) -> None:
    here, there = (cache.policy("item", str, ttl=60) for cache in caches)
    for key in ("moving", "other"):
        await here.get_or_load(key, Source("old").load, tags=[TAG])
        await there.get_or_load(key, Source("wrong").load, tags=[TAG])
    key = names(here, "moving")[what]
    async with moving(cluster, key) as target:
        if moved:
            source = next(n for n in cluster.nodes if key.encode() in keys_on(n))
            ask(source, "MIGRATE", target.host, target.port, key, 0, 5_000)
        match what:
            case "entry":
                await here.invalidate("moving", strict=True)
            case "policy":
                await here.clear(strict=True)
            case "tag":
                await caches[0].invalidate_tags(TAG, strict=True)
        for policy in (here, there):
            assert await policy.get_or_load("moving", Source("new").load, tags=[TAG]) == "new"
        others = Source("new")
        for cache in caches:
            assert not breaker_is_open(cache)
            assert queued_invalidations(cache) == 0
        await there.get_or_load("other", others.load, tags=[TAG])
        await here.get_or_load("other", others.load, tags=[TAG])
        assert others.loads <= 1  # they are cached


async def test_many_keys_on_the_move_do_not_open_the_breaker(
    cluster: EmbeddedCluster, caches: list[Cache]
) -> None:
    cache, _ = caches
    policy, source = cache.policy("item", str, ttl=60), Source("value")
    await policy.get_or_load("other", source.load)
    async with moving(cluster, names(policy, "moving")["entry"]):
        reads = [policy.get_or_load("moving", source.load) for _ in range(5)]
        assert set(await asyncio.gather(*reads)) == {"value"}
        for _ in range(5):
            assert await policy.get_or_load("moving", source.load) == "value"
        await policy.invalidate("moving", *(f"other-{n}" for n in range(50)), strict=True)
        assert not breaker_is_open(cache)
        source.loads = 0
        await policy.get_or_load("other", source.load)
        assert source.loads == 0


async def test_a_refused_asking_leaves_no_reply_behind_for_later_commands(
    cluster: EmbeddedCluster,
) -> None:
    for node in cluster.nodes:
        ask(node, "FLUSHALL")
        ask(node, "ACL", "SETUSER", "poor", "on", ">secret", "~*", "&*", "+@all", "-asking")
    url = cluster.url.replace("://", "://poor:secret@")
    options = ClientOptions(name="test", timeout=PATIENT, connect_timeout=PATIENT)
    client = create_client(url, options)
    try:
        async with moving(cluster, "moving") as target:  # with no key: "ask the other node"
            keys = await keys_with_themselves_on(client, target)
            with pytest.raises(NoPermissionError):
                await client.get("moving")
            assert [await client.get(key) for key in keys] == keys
    finally:
        await client.aclose()


async def keys_with_themselves_on(client: RedisClient, node: EmbeddedValkey) -> list[bytes]:
    """The keys that a node has, among many whose values are their names."""
    for key in map(str, range(20)):
        await client.set(key, key)
    return keys_on(node)


def keys_on(node: EmbeddedValkey) -> list[bytes]:
    return [key.encode() for key in ask(node, "KEYS", "*")]
