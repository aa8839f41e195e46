"""A Redis that answers and does not do what the cache needs: everybody can see it."""

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy, CacheUnavailable
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import (
    Source,
    breaker_is_open,
    is_healthy,
    queued_invalidations,
)
from tests.support.states import NOTHING_ANSWERED, WRITES_REFUSED, State, stateful

ENOUGH = 5


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    with stateful() as server:
        yield server


@pytest.fixture
async def admin(server: EmbeddedValkey) -> AsyncIterator[Redis]:
    admin = Redis(port=server.port)
    await admin.flushall()
    yield admin
    await admin.aclose()


@pytest.fixture
async def cache(server: EmbeddedValkey, admin: Redis, another: OpenCache) -> Cache:
    return await another(server.url)


def policy_of(cache: Cache) -> CachePolicy[str]:
    return cache.policy("item", str, ttl=60)


async def read_some(policy: CachePolicy[str]) -> None:
    for key in range(ENOUGH):
        assert await policy.get_or_load(key, Source("value").load) == "value"


async def stores_again(cache: Cache) -> None:
    await read_some(cache.policy("afterwards", str, ttl=60))


@pytest.mark.parametrize("word", WRITES_REFUSED)
async def test_a_cache_that_stores_nothing_is_not_well(
    server: EmbeddedValkey, cache: Cache, word: str
) -> None:
    policy = policy_of(cache)
    await cache.check()
    with WRITES_REFUSED[word](server):
        await read_some(policy)
        with pytest.raises(CacheUnavailable, match=f"nothing was stored in the last {ENOUGH} "):
            await cache.check()
        assert not breaker_is_open(cache)
    await stores_again(cache)
    await cache.check()


@pytest.mark.parametrize("commands", [("-eval", "-evalsha"), ("-set",), ("-del",)], ids=str)
async def test_a_permission_that_is_missing_is_named(
    server: EmbeddedValkey, admin: Redis, another: OpenCache, commands: tuple[str, ...]
) -> None:
    user = ("ACL", "SETUSER", "poor", "reset", "on", ">secret", "~*", "&*", "+@all")
    await admin.execute_command(*user, *commands)
    cache = await another(f"redis://poor:secret@{server.host}:{server.port}/0")
    await read_some(policy_of(cache))
    with pytest.raises(CacheUnavailable, match=r"nothing was stored.*(permission|ACL failure)"):
        await cache.check()
    await admin.execute_command(*user)
    await stores_again(cache)
    await until(lambda: is_healthy(cache))


async def test_one_refusal_among_others_is_not_the_end(cache: Cache) -> None:
    policy = policy_of(cache)
    for _ in range(ENOUGH):
        cache._store._unstored = 2
        await read_some(policy)
        await policy.clear()
    await cache.check()


@pytest.mark.parametrize("state", NOTHING_ANSWERED.values(), ids=NOTHING_ANSWERED)
async def test_a_server_that_answers_not_even_reads_is_left_alone(
    server: EmbeddedValkey, cache: Cache, state: State
) -> None:
    policy = policy_of(cache)
    await read_some(policy)
    with state(server):
        await read_some(policy)
        assert breaker_is_open(cache)
        await policy.invalidate(1)
        assert queued_invalidations(cache) > 0
    await until(lambda: is_healthy(cache))
    assert await policy.get_or_load(1, Source("new").load) == "new"


@pytest.mark.parametrize("word", [word for word in WRITES_REFUSED if word != "OOM"])
async def test_an_invalidation_that_is_refused_is_carried_out_when_it_can_be(
    server: EmbeddedValkey, cache: Cache, another: OpenCache, word: str
) -> None:
    """What another process serves meanwhile is the old value: `strict` tells the caller."""
    policy, elsewhere = policy_of(cache), policy_of(await another(server.url))
    for one in (policy, elsewhere):
        assert await one.get_or_load("key", Source("old").load, tags=["tag"]) == "old"
    with WRITES_REFUSED[word](server):
        with pytest.raises(CacheUnavailable):
            await policy.invalidate("key", strict=True)
        with pytest.raises(CacheUnavailable):
            await cache.invalidate_tags("tag", strict=True)
        assert await policy.get_or_load("key", Source("new").load, tags=["tag"]) == "new"
        assert await elsewhere.get_or_load("key", Source("new").load, tags=["tag"]) == "old"
    await until(lambda: is_healthy(cache), seconds=HANG)
    assert await elsewhere.get_or_load("key", Source("new").load, tags=["tag"]) == "new"


async def test_a_full_server_still_carries_out_invalidations(
    server: EmbeddedValkey, cache: Cache
) -> None:
    policy = policy_of(cache)
    await policy.get_or_load("key", Source("old").load)
    with WRITES_REFUSED["OOM"](server):
        await policy.invalidate("key", strict=True)
        assert await policy.get_or_load("key", Source("new").load) == "new"
