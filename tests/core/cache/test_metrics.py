"""The metrics say what happened, by policy and by nothing that could grow without bound."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from app.core.cache import Cache, CachePolicy
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.counters import loads, misses, reads, refreshes, sample, stores
from tests.core.cache.harness import Clock, LoopClock, Source, cache_of, is_healthy

NAMES = iter(range(10_000))
TTL = 60.0
OPTIONS = {"ttl": TTL, "jitter": 0, "error_patience": HANG, "lease_wait": HANG}


def policy_of(cache: Cache, **options: Any) -> CachePolicy[str]:
    """With a name of its own, so that its counters begin at nothing."""
    return cache.policy(f"metered-{next(NAMES)}", str, **(OPTIONS | options))


async def test_a_miss_and_a_hit(cache: Cache) -> None:
    policy, source = policy_of(cache), Source("value")
    batches = sample("cache_read_seconds_count")
    for _ in range(3):
        await policy.get_or_load(1, source.load)
    assert (reads(policy.name, "miss"), reads(policy.name, "hit")) == (1, 2)
    assert misses(policy.name, "absent") == 1
    assert (loads(policy.name, "ok"), stores(policy.name, "stored")) == (1, 1)
    assert sample("cache_load_seconds_count", policy=policy.name) == 1
    assert sample("cache_read_seconds_count") == batches + 3


async def test_reasons_of_misses(cache: Cache, clock: Clock) -> None:
    policy, source = policy_of(cache, stale_if_error=3600), Source("value")
    await policy.get_or_load(1, source.load)
    clock.advance(TTL)
    await policy.get_or_load(1, source.load)
    assert misses(policy.name, "expired") == 1
    await policy.clear()
    await policy.get_or_load(1, source.load)
    assert misses(policy.name, "invalidated") == 1
    await policy.invalidate(1)
    await policy.get_or_load(1, source.load)
    assert misses(policy.name, "absent") == 2
    cache._breaker.open("a test")
    await policy.get_or_load(1, source.load)
    assert misses(policy.name, "unavailable") == 1
    assert reads(policy.name, "miss") == 5


async def test_stale_and_refreshes(cache: Cache, clock: Clock) -> None:
    policy = policy_of(cache, stale_while_revalidate=3600, stale_if_error=3600)
    source = Source("value")
    await policy.get_or_load(1, source.load)
    clock.advance(TTL)
    await policy.get_or_load(1, source.load)
    assert reads(policy.name, "stale") == 1
    await until(lambda: refreshes(policy.name, "done") == 1)
    clock.advance(TTL)
    source.error = OSError("down")
    await policy.get_or_load(1, source.load)
    await until(lambda: refreshes(policy.name, "failed") == 1)
    assert (loads(policy.name, "ok"), loads(policy.name, "error")) == (2, 1)


async def test_failures_that_old_values_cover(cache: Cache, clock: Clock) -> None:
    policy, source = policy_of(cache, stale_if_error=3600), Source("value")
    await policy.get_or_load(1, source.load)
    clock.advance(TTL)
    source.error = OSError("down")
    await policy.get_or_load(1, source.load)
    assert reads(policy.name, "stale_error") == 1
    assert loads(policy.name, "error") == 1


async def test_timeouts_and_cancellations(cache: Cache, loop_clock: LoopClock) -> None:
    policy, source = policy_of(cache, loader_timeout=HANG), Source("value")
    source.hold()
    task = asyncio.create_task(policy.get_or_load(1, source.load))
    await source.started.wait()
    loop_clock.advance(HANG)
    with pytest.raises(TimeoutError):
        await task
    assert loads(policy.name, "timeout") == 1
    source.started.clear()
    task = asyncio.create_task(policy.get_or_load(1, source.load))
    await source.started.wait()
    task.cancel()
    await until(lambda: loads(policy.name, "cancelled") == 1)


async def test_refused_and_unstorable_values(cache: Cache) -> None:
    policy, source = policy_of(cache), Source("value")
    source.hold()
    task = asyncio.create_task(policy.get_or_load(1, source.load))
    await source.started.wait()
    await policy.invalidate(1)
    source.release()
    await task
    assert (stores(policy.name, "refused"), stores(policy.name, "stored")) == (1, 0)
    wrong: Source[Any] = Source(object())
    await policy.get_or_load(2, wrong.load)
    assert stores(policy.name, "failed") == 1


async def test_waiting_for_another_process(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = policy_of(await another())
    two = (await another()).policy(one.name, str, **cast(Any, OPTIONS))
    denied, lease_many = asyncio.Event(), cache_of(two)._store.lease_many

    async def noted(*arguments: Any, **options: Any) -> Any:
        reply = await lease_many(*arguments, **options)
        denied.set()
        return reply

    monkeypatch.setattr(cache_of(two)._store, "lease_many", noted)
    source = Source("value")
    source.hold()
    holding = asyncio.create_task(one.get_or_load(1, source.load))
    await source.started.wait()
    waiting = asyncio.create_task(two.get_or_load(1, source.load))
    await denied.wait()
    await asyncio.sleep(0.05)
    source.release()
    await asyncio.gather(holding, waiting)
    assert sample("cache_lease_wait_seconds_count", policy=one.name) == 1
    assert sample("cache_lease_wait_seconds_sum", policy=one.name) >= 0.04


async def test_too_many_refreshes(another: OpenCache, clock: Clock) -> None:
    cache = await another(max_refreshes=1)
    policy = policy_of(cache, stale_while_revalidate=3600)
    source = Source("value")
    for key in (1, 2):
        await policy.get_or_load(key, source.load)
    clock.advance(TTL)
    source.hold()
    for key in (1, 2):
        await policy.get_or_load(key, source.load)
    assert refreshes(policy.name, "dropped") == 1
    source.release()


async def test_many_are_counted_one_by_one(cache: Cache) -> None:
    policy = policy_of(cache)

    async def load(keys: Sequence[int]) -> dict[int, str]:
        return dict.fromkeys(keys, "value")

    await policy.get_or_load_many([1, 2], load)
    await policy.get_or_load_many([1, 2, 3], load)
    assert (reads(policy.name, "miss"), reads(policy.name, "hit")) == (3, 2)
    assert misses(policy.name, "absent") == 3
    assert loads(policy.name, "ok") == 2
    assert stores(policy.name, "stored") == 3


async def test_the_breaker_and_the_queue(cache: Cache) -> None:
    policy = policy_of(cache)
    sent = sample("cache_invalidations_total", outcome="sent")
    queued = sample("cache_invalidations_total", outcome="queued")
    assert sample("cache_breaker_open") == 0
    await policy.invalidate(1)
    cache._breaker.open("a test")
    assert sample("cache_breaker_open") == 1
    await policy.invalidate(1)
    await policy.clear()
    assert sample("cache_queued_invalidations") == 2

    async def healthy() -> bool:
        return await is_healthy(cache)

    await until(healthy)
    assert sample("cache_queued_invalidations") == 0
    assert sample("cache_breaker_open") == 0
    assert sample("cache_invalidations_total", outcome="sent") == sent + 1
    assert sample("cache_invalidations_total", outcome="queued") == queued + 2


async def test_labels_are_bounded(cache: Cache) -> None:
    policy, source = policy_of(cache), Source("value")
    for key in range(20):
        await policy.get_or_load(f"k3y-{key}", source.load, tags=[f"k3y-{key}"])
        await policy.invalidate(f"k3y-{key}")
    allowed = {"policy", "outcome", "reason", "le"}
    for metric in REGISTRY.collect():
        if metric.name.startswith("cache_"):
            for one in metric.samples:
                assert set(one.labels) <= allowed
                assert not any("k3y" in text for text in one.labels.values())
