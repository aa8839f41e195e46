"""A popular entry is computed anew before it expires, so that nobody waits for it (XFetch)."""

import asyncio
from time import monotonic, time
from typing import Any

import pytest

from app.core.cache import Cache, results
from app.core.cache.entry_codec import early_refresh_from, xfetch_gap, xfetch_is_due
from devservers.waiting import HANG
from tests.core.cache.counters import reads, refreshes

READERS = 8


class SteadyClock:
    """The time of day, but for the pauses of a busy machine: it only goes on while it is asked."""

    def __init__(self) -> None:
        self._now, self._asked = time(), monotonic()

    def __call__(self) -> float:
        passed, self._asked = monotonic() - self._asked, monotonic()
        self._now += min(passed, 0.005)
        return self._now


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> SteadyClock:
    clock = SteadyClock()
    monkeypatch.setattr(results, "time", clock)
    return clock


async def foreground_misses(cache: Cache, steady: SteadyClock, **options: Any) -> float:
    """Under steady traffic over several lives of an entry, the first load left out."""
    # For Redis, which has a clock of its own, entries never expire.
    options |= {"stale_if_error": 600, "error_patience": HANG}
    policy = cache.policy("popular", int, ttl=0.4, jitter=0, **options)

    async def load() -> int:
        await asyncio.sleep(0.04)
        return 1

    await policy.get_or_load("key", load)
    before = reads("popular", "miss")
    end = steady() + 1.8

    async def traffic() -> None:
        while steady() < end:
            await policy.get_or_load("key", load)
            await asyncio.sleep(0.002)

    await asyncio.gather(*(traffic() for _ in range(READERS)))
    return reads("popular", "miss") - before


async def test_nobody_waits_for_a_popular_entry(cache: Cache, steady: SteadyClock) -> None:
    done = refreshes("popular", "done")
    assert await foreground_misses(cache, steady) == 0
    assert refreshes("popular", "done") - done >= 3


async def test_control_without_early_refresh_somebody_does(
    cache: Cache, steady: SteadyClock
) -> None:
    assert await foreground_misses(cache, steady, early_refresh=0) >= 3


def share_of_due(*, left: int, cost: int, ttl: float = 60, beta: float = 1) -> float:
    """`left` and `cost` in milliseconds."""
    draws, mean = 4_000, xfetch_gap(cost, ttl, beta)
    return sum(xfetch_is_due(left, mean) for _ in range(draws)) / draws


def test_the_chance_is_that_of_the_paper() -> None:
    # P(-cost * beta * ln(u) >= left) = exp(-left / (cost * beta))
    assert share_of_due(left=100, cost=100) == pytest.approx(0.368, abs=0.04)
    assert share_of_due(left=100, cost=100, beta=2) == pytest.approx(0.607, abs=0.04)
    assert share_of_due(left=300, cost=100) == pytest.approx(0.05, abs=0.02)
    assert share_of_due(left=0, cost=100) == 1


def test_it_does_not_refresh_all_the_time() -> None:
    assert share_of_due(left=59_000, cost=100) == 0
    assert share_of_due(left=1, cost=0) == 0
    assert share_of_due(left=100, cost=100, beta=0) == 0
    # A loader as slow as its entry lives: a head start of a quarter of the ttl at most.
    assert share_of_due(left=1_000, cost=1_000, ttl=1) < 0.04


def test_before_an_entry_is_due_it_is_calm() -> None:
    mean = xfetch_gap(100, 60, 1)
    calm = early_refresh_from(60_000, mean)
    assert 58_000 < calm < 59_000
    assert share_of_due(left=60_000 - calm, cost=100) < 0.001
    assert share_of_due(left=(60_000 - calm) // 10, cost=100) > 0.1
    assert early_refresh_from(60_000, xfetch_gap(100, 60, 0)) == 60_000
