"""Cancelling a caller harms nobody else, and leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy
from app.core.cache.concurrency import Flight
from devservers.waiting import HANG, until
from tests.core.cache.harness import (
    Clock,
    LoopClock,
    Source,
    lease_keys,
    value_keys,
    waiting_callers,
)

CALLERS = 20
OPTIONS = {"ttl": 60, "stale_while_revalidate": 60}


@pytest.fixture
async def policy(cache: Cache) -> CachePolicy[str]:
    return cache.policy("item", str, **OPTIONS)


@pytest.fixture(autouse=True)
async def nothing_is_left(redis: Redis, cache: Cache) -> AsyncIterator[None]:
    """No task of the test or the cache, and no lease, outlives a test by more than a moment."""
    await cache.policy("warm-up", int, ttl=60).get_or_load(0, Source(1).load)
    before = asyncio.all_tasks()
    yield

    async def is_quiet() -> bool:
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        return not left and not await lease_keys(redis)

    await until(is_quiet)


def call(policy: CachePolicy[str], source: Source[str]) -> asyncio.Task[str]:
    return asyncio.create_task(policy.get_or_load("key", source.load))


async def gone(*tasks: asyncio.Task[str]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("victim", [0, 1, CALLERS - 1], ids=["first", "second", "last"])
async def test_one_cancelled_caller_harms_no_other(policy: CachePolicy[str], victim: int) -> None:
    source = Source("value")
    source.hold()
    callers = [call(policy, source) for _ in range(CALLERS)]
    await source.started.wait()
    await gone(callers.pop(victim))
    source.release()
    assert await asyncio.gather(*callers) == ["value"] * (CALLERS - 1)
    assert (source.loads, source.cancelled) == (1, 0)


async def test_only_the_last_one_to_go_cancels_the_load(
    policy: CachePolicy[str], redis: Redis
) -> None:
    source = Source("value")
    source.hold()
    callers = [call(policy, source) for _ in range(CALLERS)]
    await source.started.wait()
    await gone(*callers[1:])
    assert source.cancelled == 0
    await gone(callers[0])
    await until(lambda: source.cancelled == 1)
    assert source.loads == 1


async def test_who_comes_after_all_have_gone_gets_a_load_of_his_own(
    policy: CachePolicy[str],
) -> None:
    source = Source("value")
    source.hold()
    first = call(policy, source)
    await source.started.wait()
    first.cancel()
    second = call(policy, source)
    source.release()
    assert await second == "value"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_control_without_the_shield_one_cancelled_caller_takes_all_with_him(
    policy: CachePolicy[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(self: Flight) -> object:
        return await self.task

    monkeypatch.setattr(Flight, "wait", wait)
    source = Source("value")
    source.hold()
    callers = [call(policy, source) for _ in range(CALLERS)]
    await source.started.wait()
    callers[0].cancel()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)  # the violation


class Gate:
    """Holds one step of a fill, before Redis is asked and after it has answered."""

    def __init__(self, owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.answered = asyncio.Event(), asyncio.Event()
        self._before, self._after = asyncio.Event(), asyncio.Event()
        real: Callable[..., object] = getattr(owner, name)

        async def step(*arguments: object, **options: object) -> object:
            self.reached.set()
            await self._before.wait()
            result = await real(*arguments, **options)  # type: ignore[misc]  # it is a coroutine
            self.answered.set()
            await self._after.wait()
            return result

        monkeypatch.setattr(owner, name, step)

    def let_in(self) -> None:
        self._before.set()

    def let_out(self) -> None:
        self._before.set()
        self._after.set()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["read", "lease_many", "store_many"])
async def test_cancelling_during_a_call_of_redis(
    cache: Cache,
    policy: CachePolicy[str],
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    when: str,
) -> None:
    source = Source("value")
    gate = Gate(cache._store, step, monkeypatch)
    task = call(policy, source)
    await gate.reached.wait()
    if when == "after":
        gate.let_in()
        await gate.answered.wait()
    task.cancel()
    await asyncio.sleep(0.01)
    gate.let_out()
    with suppress(asyncio.CancelledError):
        await task
    await until(lambda: not cache.engine.filler.tasks)
    assert await lease_keys(redis) == []
    if step == "store_many":  # it was paid for: it is kept
        assert len(await value_keys(redis)) == 2
    assert await call(policy, source) == "value"


async def test_cancelling_at_any_moment(policy: CachePolicy[str], redis: Redis) -> None:
    """One more turn of the event loop each time, until a read gets through."""
    for turns in range(200):
        source = Source("value")
        task = call(policy, source)
        other = call(policy, source) if turns % 2 else None
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        with suppress(asyncio.CancelledError):
            assert await task == "value"
        if other is not None:
            assert await other == "value"
        async with asyncio.timeout(HANG):
            assert await call(policy, source) == "value"
        await policy.invalidate("key")
        if finished:
            break
    else:
        pytest.fail("no read ever finished")


async def test_many_that_are_cancelled_return_all_their_leases(cache: Cache, redis: Redis) -> None:
    policy = cache.policy("many", str, ttl=60, negative_ttl=0)
    for turns in range(400):

        async def load(keys: object) -> dict[int, str]:
            await asyncio.sleep(0)
            return {1: "one"}  # the others do not exist, and that is not kept

        task = asyncio.create_task(policy.get_or_load_many([1, 2, 3], load))
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(lambda: not cache.engine.filler.tasks)
        assert await lease_keys(redis) == []
        await policy.clear()
        if finished:
            return
    pytest.fail("no read ever finished")


async def test_at_shutdown_loads_may_finish(cache: Cache, redis: Redis) -> None:
    policy = cache.policy("item", str, **OPTIONS)
    source = Source("value")
    source.hold()
    caller = call(policy, source)
    await source.started.wait()
    leaving = asyncio.create_task(cache.engine.drain(grace=HANG))
    await asyncio.sleep(0)
    source.release()
    await leaving
    assert await caller == "value"
    assert len(await value_keys(redis)) == 2


@pytest.mark.parametrize("callers", [0, 1])
async def test_at_shutdown_what_takes_too_long_is_cancelled_and_gives_its_lease_back(
    cache: Cache, redis: Redis, clock: Clock, callers: int
) -> None:
    policy = cache.policy("item", str, **OPTIONS)
    source = Source("value")
    await call(policy, source)
    clock.advance(OPTIONS["ttl"])
    source.hold()
    await call(policy, source)  # stale: a refresh begins
    await source.started.wait()
    if callers:
        await policy.invalidate("key")
        waiting = call(policy, source)
        await until(lambda: source.loads == 3)
    await cache.engine.drain(grace=0)
    assert source.cancelled == 1 + callers
    assert await lease_keys(redis) == []
    assert not cache.engine.filler.tasks
    if callers:
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_at_shutdown_a_lease_that_was_just_asked_for_is_given_back(
    cache: Cache, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = cache.policy("item", str, **OPTIONS)
    gate = Gate(cache._store, "lease_many", monkeypatch)
    caller = call(policy, Source("value"))
    gate.let_in()
    await gate.answered.wait()  # the server has granted it, the cache does not know yet
    leaving = asyncio.create_task(cache.engine.drain(grace=0))
    await until(lambda: all(task.cancelling() for task in cache.engine.loads))
    gate.let_out()
    await leaving
    assert await lease_keys(redis) == []
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_loader_that_takes_too_long_is_really_cancelled(
    cache: Cache, loop_clock: LoopClock
) -> None:
    policy = cache.policy("item", str, ttl=60, loader_timeout=HANG)
    source = Source("value")
    source.hold()
    callers = [call(policy, source) for _ in range(3)]
    await until(lambda: waiting_callers(cache) == 3)
    loop_clock.advance(HANG)
    for caller in callers:
        with pytest.raises(TimeoutError, match=r"loading 'item' took more than 60\.0 s"):
            await caller
    assert (source.loads, source.cancelled) == (1, 1)


@pytest.mark.parametrize("way", ["key", "tag", "clear"])
async def test_an_invalidation_that_is_cancelled_is_carried_out_all_the_same(
    cache: Cache, policy: CachePolicy[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The change it follows is committed: a caller who goes away must not leave the old value."""
    await policy.get_or_load("key", Source("old").load, tags=["tag"])
    gates = [Gate(cache._store, name, monkeypatch) for name in ("delete", "drop_versions")]
    ways: dict[str, Callable[[], Awaitable[None]]] = {
        "key": lambda: policy.invalidate("key"),
        "tag": lambda: cache.invalidate_tags("tag"),
        "clear": policy.clear,
    }
    task = asyncio.ensure_future(ways[way]())
    await until(lambda: any(gate.reached.is_set() for gate in gates))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def is_new() -> bool:
        return await policy.get_or_load("key", Source("new").load, tags=["tag"]) == "new"

    await until(is_new)
