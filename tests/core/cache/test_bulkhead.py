"""Loaders are bounded in number, also those that read other entries."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.core.cache import Cache, CachePolicy
from app.core.cache import engine as engine_module
from app.core.cache.concurrency import Bulkhead, without_slot
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Source

SLOTS = 2


@pytest.fixture
async def narrow(another: OpenCache) -> Cache:
    return await another(max_loads=SLOTS)


class Nested:
    """A policy whose loader reads entries of another one."""

    def __init__(self, cache: Cache, **options: Any) -> None:
        self.outer: CachePolicy[int] = cache.policy("outer", int, ttl=60, **options)
        self.inner: CachePolicy[int] = cache.policy("inner", int, ttl=60, **options)
        self.at_work = self.most_at_work = 0

    async def _work(self) -> int:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        await asyncio.sleep(0.005)
        self.at_work -= 1
        return 1

    async def _work_many(self, keys: Sequence[int]) -> dict[int, int]:
        return dict.fromkeys(keys, await self._work())

    async def one(self, key: int) -> int:
        async def load() -> int:
            return await self.inner.get_or_load(key, self._work)

        return await self.outer.get_or_load(key, load)

    async def several_at_once(self, key: int) -> int:
        async def load() -> int:
            keys = (3 * key, 3 * key + 1, 3 * key + 2)
            reads = (self.inner.get_or_load(inner, self._work) for inner in keys)
            return sum(await asyncio.gather(*reads))

        return await self.outer.get_or_load(key, load)

    async def many(self, key: int) -> int:
        async def load(keys: Sequence[int]) -> dict[int, int | None]:
            return {**await self.inner.get_or_load_many([key, -key - 1], self._work_many)}

        return len(await self.outer.get_or_load_many([key], load))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["one", "several_at_once", "many"])
async def test_loaders_that_read_other_entries_do_not_wait_for_each_other(
    narrow: Cache, way: str
) -> None:
    nested = Nested(narrow)
    async with asyncio.timeout(HANG):
        await asyncio.gather(*(getattr(nested, way)(key) for key in range(5 * SLOTS)))
    assert nested.most_at_work <= SLOTS


async def test_control_without_giving_slots_away_they_do(
    narrow: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def nothing() -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(engine_module, "without_slot", nothing)
    nested = Nested(narrow, loader_timeout=0.3)
    with pytest.raises(TimeoutError, match="more than"):
        await asyncio.gather(*(nested.one(key) for key in range(5 * SLOTS)))


async def test_no_more_loaders_run_than_there_are_slots(narrow: Cache) -> None:
    policy, source = narrow.policy("item", int, ttl=60), Source(1)
    source.hold()
    tasks = [asyncio.create_task(policy.get_or_load(key, source.load)) for key in range(9)]
    await until(lambda: source.loads == SLOTS)
    await asyncio.sleep(0.02)
    assert source.loads == SLOTS
    source.release()
    assert await asyncio.gather(*tasks) == [1] * 9


async def test_slots_are_neither_lost_nor_doubled_by_cancellation() -> None:
    """One more turn of the event loop each time, until a whole load gets through."""
    bulkhead = Bulkhead(1)

    async def inner() -> None:
        async with without_slot(), bulkhead.slot():
            await asyncio.sleep(0)

    async def load() -> None:
        async with bulkhead.slot():
            await asyncio.gather(inner(), inner())
            async with without_slot():
                await asyncio.sleep(0)

    for turns in range(100):
        task, other = asyncio.create_task(load()), asyncio.create_task(load())
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await other
        async with asyncio.timeout(HANG), bulkhead.slot():
            second = asyncio.create_task(load())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert bulkhead._free.locked()
        await second
        if finished:
            return
    pytest.fail("no load ever finished")


async def test_what_a_loader_leaves_behind_takes_no_slot(narrow: Cache) -> None:
    """A task that outlives the loader which started it is no loader."""
    policy, source, left = narrow.policy("item", int, ttl=60), Source(1), []

    async def load() -> int:
        left.append(asyncio.create_task(policy.get_or_load("later", source.load)))
        return 1

    await policy.get_or_load("first", load)
    await left[0]
    assert narrow.engine.filler._loads._free._value == SLOTS
