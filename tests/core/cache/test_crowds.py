"""Very many callers at once: everything is carried out, and nobody takes it for an outage."""

import asyncio

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache, fill
from app.core.redis import RedisClient
from devservers.waiting import HANG
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import (
    Source,
    breaker_is_open,
    lease_keys,
    queued_invalidations,
    value_keys,
)
from tests.support.wire import counted_writes

CROWD = 1_000


@pytest.fixture
async def small(another: OpenCache, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache with two connections, for which nobody waits long."""
    monkeypatch.setattr(fill, "LEASE_SECONDS", HANG)  # this process may stand still
    return await another(pool_size=2, pool_timeout=0.2, read_timeout=HANG, command_timeout=HANG)


def is_well(cache: Cache) -> bool:
    return not breaker_is_open(cache) and queued_invalidations(cache) == 0


@pytest.mark.parametrize("what", ["keys", "tags"])
async def test_invalidations_are_all_carried_out(small: Cache, redis: Redis, what: str) -> None:
    policy = small.policy("item", int, ttl=60)
    for key in range(20):
        await policy.get_or_load(key, Source(1).load, tags=[f"tag:{key}"])
    with counted_writes() as wire:
        await asyncio.gather(
            *(
                policy.invalidate(key, strict=True)
                if what == "keys"
                else small.invalidate_tags(f"tag:{key}", strict=True)
                for key in range(CROWD)
            )
        )
    assert is_well(small)
    assert len(wire) < 10
    source = Source(2)
    for key in range(20):
        assert await policy.get_or_load(key, source.load, tags=[f"tag:{key}"]) == 2


async def test_cold_keys_are_all_stored(small: Cache, redis: Redis) -> None:
    policy = small.policy("item", int, ttl=60)
    source = Source(1)
    with counted_writes() as wire:
        await asyncio.gather(
            *(policy.get_or_load(key, source.load, tags=[f"t:{key}"]) for key in range(CROWD))
        )
    assert source.loads == CROWD
    assert len(await value_keys(redis)) == CROWD
    assert await lease_keys(redis) == []
    assert is_well(small)
    assert len(wire) < CROWD / 10  # three round trips each, if they were alone


@pytest.mark.parametrize(("read_timeout", "pool_timeout"), [(0.5, 5), (5, 0.1)])
async def test_a_pool_that_others_fill_is_no_outage(
    another: OpenCache, redis: Redis, read_timeout: float, pool_timeout: float
) -> None:
    cache = await another(
        pool_size=1, pool_timeout=pool_timeout, read_timeout=read_timeout, breaker_threshold=1
    )
    policy = cache.policy("item", int, ttl=60)
    await policy.get_or_load(1, Source(1).load)
    client: RedisClient = cache._store._client
    assert isinstance(client, Redis)
    held = await client.connection_pool.get_connection()
    reads = [policy.get_or_load(key, Source(2).load) for key in range(20)]
    assert await asyncio.gather(*reads) == [2] * 20  # the loader answers, as long as it takes
    waiting = asyncio.create_task(policy.invalidate(1, strict=True))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    assert is_well(cache)
    await client.connection_pool.release(held)
    await waiting
    assert is_well(cache)
    assert await policy.get_or_load(1, Source(3).load) == 3
