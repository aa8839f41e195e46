"""What every operation costs: one write to the socket is one round trip."""

import asyncio
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy, fill
from devservers.waiting import until
from tests.core.cache.harness import Clock, Source
from tests.support.wire import Wire, counted_writes

TAGS = [f"tag:{number}" for number in range(10)]


@pytest.fixture(autouse=True)
def no_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads that take long have their leases renewed; these are quick, the machine may not be."""
    monkeypatch.setattr(fill.LeaseRenewal, "_renew", lambda _: None)


@pytest.fixture
async def policy(cache: Cache) -> CachePolicy[int]:
    """Of a cache that has been in use: connected, and with its scripts known to the server."""
    policy = cache.policy("item", int, ttl=60, stale_while_revalidate=60, early_refresh=0)
    source = Source(1)
    await policy.get_or_load("warm-up", source.load)
    source.error = OSError("no value")
    with pytest.raises(OSError, match="no value"):
        await policy.get_or_load("give-up", source.load)
    return policy


@pytest.mark.parametrize("tags", [[], TAGS[:1], TAGS], ids=len)
async def test_a_hit_costs_one(policy: CachePolicy[int], tags: list[str]) -> None:
    source = Source(1)
    await policy.get_or_load("key", source.load, tags=tags)
    with counted_writes() as wire:
        assert await policy.get_or_load("key", source.load, tags=tags) == 1
    assert (len(wire), source.loads) == (1, 1)


@pytest.mark.parametrize("tags", [[], TAGS[:1], TAGS], ids=len)
async def test_a_miss_costs_three_also_when_its_tags_are_new(
    policy: CachePolicy[int], tags: list[str]
) -> None:
    with counted_writes() as wire:
        await policy.get_or_load("key", Source(1).load, tags=tags)
    assert len(wire) == 3


async def test_a_failed_load_costs_three(policy: CachePolicy[int], wire: Wire) -> None:
    source = Source(1)
    source.error = OSError("no value")
    with pytest.raises(OSError, match="no value"):
        await policy.get_or_load("key", source.load)
    assert len(wire) == 3


async def test_a_stale_hit_costs_one_before_it_answers(cache: Cache, clock: Clock) -> None:
    policy = cache.policy("stale", int, ttl=60, stale_while_revalidate=3600)
    source = Source(1)
    await policy.get_or_load("key", source.load)
    clock.advance(60)
    source.value = 2
    with counted_writes() as wire:
        answer = await policy.get_or_load("key", source.load)
        # The refresh is a task of its own: it has written nothing when the caller is answered.
        writes = len(wire)
    assert (answer, writes) == (1, 1)
    await until(lambda: source.finished == 2)


async def test_a_caller_who_joins_pays_for_the_check_of_the_lease(
    policy: CachePolicy[int],
) -> None:
    source = Source(1)
    source.hold()
    first = asyncio.create_task(policy.get_or_load("key", source.load))
    await source.started.wait()
    with counted_writes() as wire:
        second = asyncio.create_task(policy.get_or_load("key", source.load))
        await until(lambda: len(wire) == 2)
        source.release()
        assert list(await asyncio.gather(first, second)) == [1, 1]
    assert len(wire) == 3  # two of the second caller, and the store


@pytest.mark.parametrize("count", [1, 100])
async def test_invalidating_costs_one(policy: CachePolicy[int], wire: Wire, count: int) -> None:
    await policy.invalidate(*range(count))
    assert len(wire) == 1


@pytest.mark.parametrize("tags", [TAGS[:1], TAGS], ids=len)
async def test_invalidating_tags_costs_one(cache: Cache, policy: object, tags: list[str]) -> None:
    with counted_writes() as wire:
        await cache.invalidate_tags(*tags)
    assert len(wire) == 1


async def test_clearing_costs_one_and_never_walks_the_keys(
    policy: CachePolicy[int], redis: Redis
) -> None:
    for key in range(20):
        await policy.get_or_load(key, Source(1).load)
    with counted_writes() as wire:
        await policy.clear()
    assert len(wire) == 1
    assert not any(word in wire.text for word in (b"SCAN", b"KEYS", b"FLUSH"))
    source = Source(2)
    assert await policy.get_or_load(7, source.load) == 2


async def test_invalidating_nothing_costs_nothing(
    cache: Cache, policy: CachePolicy[int], wire: Wire
) -> None:
    await policy.invalidate()
    await cache.invalidate_tags()
    assert len(wire) == 0


async def test_many_cost_one_when_all_are_there_and_three_when_not(
    policy: CachePolicy[int],
) -> None:
    async def load(keys: Sequence[int]) -> dict[int, int]:
        return {key: key * 10 for key in keys}

    expected = {key: key * 10 for key in range(50)}
    with counted_writes() as wire:
        assert await policy.get_or_load_many(range(50), load, tags=TAGS) == expected
    assert len(wire) == 3
    with counted_writes() as wire:
        assert await policy.get_or_load_many(range(50), load, tags=TAGS) == expected
    assert len(wire) == 1


async def test_readers_of_one_moment_share_round_trips(policy: CachePolicy[int]) -> None:
    source = Source(1)
    for key in range(64):
        await policy.get_or_load(key, source.load)
    with counted_writes() as wire:
        await asyncio.gather(*(policy.get_or_load(key, source.load) for key in range(64)))
    assert len(wire) == 2  # the first one alone, the other 63 together


async def test_an_open_breaker_costs_nothing(policy: CachePolicy[int], cache: Cache) -> None:
    cache._breaker.open("a test")
    with counted_writes() as wire:
        assert await policy.get_or_load("key", Source(1).load) == 1
        await policy.invalidate("key")
        await policy.clear()
        await cache.invalidate_tags("tag")
        writes = len(wire)
    assert writes == 0
