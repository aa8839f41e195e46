"""What is asked for most is loaded before somebody asks, and anew at night."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from app.core.cache import Cache, HotCall, WarmingReport, warming
from devservers.waiting import until
from tests.core.cache.conftest import OpenCache


class Shop:
    """Squares that one process keeps warm."""

    def __init__(self, cache: Cache, numbers: int = 10) -> None:
        self.cache = cache
        self.loads: list[int] = []
        self.under_way = self.most_under_way = 0
        self.broken: set[int] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        policy = cache.policy("square", int, ttl=60)

        @policy.cached()
        async def square(number: int) -> int:
            return await self._load(number)

        async def hot() -> AsyncIterator[HotCall]:
            for number in range(numbers):
                yield square, {"number": number}

        self.square = square
        cache.keep_warm("squares", hot)

    async def _load(self, number: int) -> int:
        self.loads.append(number)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        if number in self.broken:
            raise OSError("the source is down")
        return number * number


async def test_only_what_is_missing_is_loaded(cache: Cache) -> None:
    shop = Shop(cache)
    await shop.square(3)
    assert await cache.warm() == WarmingReport(loaded=10, failed=0)
    assert sorted(shop.loads) == list(range(10))
    assert await shop.square(7) == 49
    assert len(shop.loads) == 10


async def test_a_few_are_loaded_at_once(cache: Cache) -> None:
    shop = Shop(cache)
    shop.gate.clear()
    warming_up = asyncio.create_task(cache.warm())
    await until(lambda: shop.under_way == warming._AT_ONCE)
    shop.gate.set()
    await warming_up
    assert shop.most_under_way == warming._AT_ONCE


async def test_what_fails_is_told_and_the_rest_is_loaded(cache: Cache) -> None:
    shop = Shop(cache)
    shop.broken = {0, 4}

    async def broken() -> AsyncIterator[HotCall]:
        yield shop.square, {"number": 20}
        raise OSError("the database is down")

    cache.keep_warm("broken", broken)
    with capture_logs() as logs:
        assert await cache.warm() == WarmingReport(loaded=9, failed=3)
    told = [line for line in logs if line["event"] == "cache.warming_failed"]
    assert [(line["group"], line["failed"]) for line in told] == [("squares", 2), ("broken", 1)]


async def test_processes_that_start_together_load_each_entry_once(another: OpenCache) -> None:
    shops = [Shop(await another(), numbers=6) for _ in range(3)]
    await asyncio.gather(*(shop.cache.warm() for shop in shops))
    assert sorted(number for shop in shops for number in shop.loads) == list(range(6))


async def test_a_refresh_loads_all_anew_and_keeps_what_it_cannot_replace(
    cache: Cache, another: OpenCache
) -> None:
    shop = Shop(cache)
    await cache.warm()
    shop.broken = {4}
    assert await cache.refresh() == WarmingReport(loaded=9, failed=1)
    assert len(shop.loads) == 20
    reader = Shop(await another())
    assert await reader.square(4) == 16
    assert reader.loads == []


async def test_a_warm_up_that_is_cancelled_ends_its_loads(cache: Cache) -> None:
    shop = Shop(cache)
    shop.gate.clear()
    warming_up = asyncio.create_task(cache.warm())
    await until(lambda: shop.under_way)
    warming_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await warming_up
    begun = len(shop.loads)
    assert begun <= warming._AT_ONCE
    shop.gate.set()
    await until(lambda: not shop.under_way)  # they were shared: whoever waits for one gets it
    assert len(shop.loads) == begun


async def test_two_groups_have_two_names(cache: Cache) -> None:
    async def nothing() -> AsyncIterator[HotCall]:
        return
        yield

    cache.keep_warm("squares", nothing)
    with pytest.raises(ValueError, match="hot calls 'squares' already"):
        cache.keep_warm("squares", nothing)
