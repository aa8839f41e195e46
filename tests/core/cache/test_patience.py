"""A load that hangs keeps nobody waiting who can have an old value, and goes on."""

import asyncio
from collections.abc import Sequence

import pytest

from app.core.cache import Cache, CachePolicy
from devservers.waiting import HANG, until
from tests.core.cache.harness import Clock, LoopClock, Source

PATIENCE = 0.05
TTL = 60.0


@pytest.fixture
async def policy(cache: Cache) -> CachePolicy[str]:
    return cache.policy("item", str, ttl=TTL, stale_if_error=3600, error_patience=PATIENCE)


@pytest.fixture
async def patient(cache: Cache) -> CachePolicy[str]:
    return cache.policy(
        "patient",
        str,
        ttl=TTL,
        stale_if_error=3600,
        error_patience=HANG,
        loader_timeout=10 * HANG,
    )


async def outdated(policy: CachePolicy[str], clock: Clock) -> Source[str]:
    """Where "old" is stored, no longer fresh, and a load of "new" hangs."""
    source = Source("old")
    await policy.get_or_load("key", source.load)
    clock.advance(TTL)
    source.value = "new"
    source.hold()
    return source


async def test_callers_get_the_old_value_and_the_load_goes_on(
    cache: Cache, policy: CachePolicy[str], clock: Clock
) -> None:
    source = await outdated(policy, clock)
    for _ in range(3):
        calls = [policy.get_or_load("key", source.load) for _ in range(20)]
        assert set(await asyncio.gather(*calls)) == {"old"}
    assert (source.loads, source.cancelled) == (2, 0)
    source.release()
    await until(lambda: not cache.engine.loads)
    assert source.finished == 2
    assert await policy.get_or_load("key", source.load) == "new"


async def test_nobody_waits_again_for_what_is_late(
    cache: Cache, patient: CachePolicy[str], clock: Clock, loop_clock: LoopClock
) -> None:
    source = await outdated(patient, clock)
    first = asyncio.create_task(patient.get_or_load("key", source.load))
    await source.started.wait()
    loop_clock.advance(HANG)
    assert await first == "old"
    async with asyncio.timeout(HANG):  # for all: each of them would have waited for as long
        for _ in range(20):
            assert await patient.get_or_load("key", source.load) == "old"
    source.release()


async def test_a_load_that_is_soon_done_is_waited_for(
    patient: CachePolicy[str], clock: Clock
) -> None:
    source = await outdated(patient, clock)
    call = asyncio.create_task(patient.get_or_load("key", source.load))
    await source.started.wait()
    source.release()
    assert await call == "new"


async def test_what_was_invalidated_is_not_served(policy: CachePolicy[str], clock: Clock) -> None:
    source = await outdated(policy, clock)
    assert await policy.get_or_load("key", source.load) == "old"
    await policy.invalidate("key")
    call = asyncio.create_task(policy.get_or_load("key", source.load))
    await asyncio.sleep(3 * PATIENCE)
    assert not call.done()
    source.release()
    assert await call == "new"


async def test_without_an_old_value_callers_wait(policy: CachePolicy[str]) -> None:
    source = Source("value")
    source.hold()
    call = asyncio.create_task(policy.get_or_load("key", source.load))
    await asyncio.sleep(3 * PATIENCE)
    assert not call.done()
    source.release()
    assert await call == "value"


async def test_a_load_that_nobody_waits_for_yet_is_cancelled_with_its_caller(
    patient: CachePolicy[str], clock: Clock
) -> None:
    source = await outdated(patient, clock)
    call = asyncio.create_task(patient.get_or_load("key", source.load))
    await source.started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: source.cancelled == 1)


async def test_a_late_load_that_fails_leaves_the_old_value(
    policy: CachePolicy[str], cache: Cache, clock: Clock
) -> None:
    source = await outdated(policy, clock)
    source.error = OSError("down")
    assert await policy.get_or_load("key", source.load) == "old"
    source.release()
    await until(lambda: not cache.engine.loads)
    assert await policy.get_or_load("key", source.load) == "old"
    assert source.loads == 2  # for a while nobody tries again


async def test_many_entries_are_as_patient_as_one(
    cache: Cache, policy: CachePolicy[str], clock: Clock
) -> None:
    source = await outdated(policy, clock)

    async def load_many(keys: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(keys, await source.load())

    assert await policy.get_or_load_many(["key"], load_many) == {"key": "old"}
    with pytest.raises(TimeoutError):  # one of them has nothing that could stand in
        async with asyncio.timeout(3 * PATIENCE):
            await policy.get_or_load_many(["key", "other"], load_many)
    source.release()
    await until(lambda: not cache.engine.loads)
    assert source.finished == 2
    assert await policy.get_or_load_many(["key"], load_many) == {"key": "new"}


async def test_a_late_load_ends_with_the_cache(
    cache: Cache, policy: CachePolicy[str], clock: Clock
) -> None:
    source = await outdated(policy, clock)
    assert await policy.get_or_load("key", source.load) == "old"
    await cache.engine.drain(0)
    assert source.cancelled == 1


async def test_a_late_load_that_another_one_began_ends_with_the_cache(
    cache: Cache, policy: CachePolicy[str], clock: Clock, loop_clock: LoopClock
) -> None:
    source = await outdated(policy, clock)
    draining = asyncio.Event()

    async def outer() -> str | None:
        await draining.wait()
        return await policy.get_or_load("key", source.load)

    call = asyncio.create_task(cache.policy("outer", str, ttl=60).get_or_load("outer", outer))
    await until(lambda: len(cache.engine.loads) == 1)
    drained = asyncio.create_task(cache.engine.drain(HANG))
    await asyncio.sleep(0)
    draining.set()
    assert await call == "old"
    loop_clock.advance(HANG)
    await drained
    assert source.cancelled == 1
    assert not cache.engine.loads
