"""The clock for tests of services, and the count of loads."""

import pytest
from redis.asyncio import Redis

from app.core.testing import cache_clock, counted_loads
from devservers.waiting import until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Source


async def test_entries_grow_old_without_waiting(another: OpenCache) -> None:
    cache = await another()
    source = Source(1)
    policy = cache.policy("aged", int, ttl=60, jitter=0, stale_if_error=600)
    loads = counted_loads("aged")
    with cache_clock() as clock:
        await policy.get_or_load("key", source.load)
        clock.advance(54)
        await policy.get_or_load("key", source.load)
        assert (loads.count, source.loads) == (1, 1)
        source.error = OSError("gone")
        clock.advance(7)
        assert await policy.get_or_load("key", source.load) == 1
        assert loads.count == 2
        clock.advance(600)
        with pytest.raises(OSError, match="gone"):
            await policy.get_or_load("key", source.load)


async def test_the_near_cache_grows_old_too(another: OpenCache, redis: Redis) -> None:
    cache = await another(near_bytes=100_000, near_client=redis)
    near = cache._near
    assert near is not None
    await until(lambda: near.is_online)
    policy = cache.policy("near-aged", int, ttl=600, near_ttl=50)
    source = Source(1)
    with cache_clock() as clock:
        for _ in range(2):  # what is loaded is near from the next read on
            await policy.get_or_load("key", source.load)
        (key,) = near._entries
        clock.advance(40)
        assert near.get(key) is not None
        clock.advance(11)
        assert near.get(key) is None


async def test_the_clock_is_as_before_at_the_end(another: OpenCache) -> None:
    cache = await another()
    source = Source(1)
    policy = cache.policy("aged-later", int, ttl=60, jitter=0)
    await policy.get_or_load("key", source.load)
    with cache_clock() as clock:
        clock.advance(1000)
    await policy.get_or_load("key", source.load)
    assert source.loads == 1


def test_a_policy_that_nobody_has_is_refused() -> None:
    with pytest.raises(LookupError, match="no policy 'nobody-has-it'"):
        counted_loads("nobody-has-it")
