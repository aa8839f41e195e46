"""Tasks that are cancelled at any moment while they ask for a lock leave nothing behind."""

import asyncio
import random
import statistics
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from devservers.waiting import HANG
from tests.core.locks.clock import Clock
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import Nodes, open_locks, plain_client

_CANCELLATIONS = 400


async def ticks_of(work: Coroutine[Any, Any, None]) -> int:
    """How many turns of the event loop it takes when nobody interferes."""
    task = asyncio.create_task(work)
    ticks = 0
    while not task.done():
        await asyncio.sleep(0)
        ticks += 1
    await task
    return ticks


async def sweep(acquire: Callable[[str], Coroutine[Any, Any, None]]) -> list[str]:
    """Cancel 400 acquisitions, each at another moment; their names."""
    for warm_up in range(10):
        await acquire(f"warm-up-{warm_up}")
    ticks = [await ticks_of(acquire(f"measure-{number}")) for number in range(11)]
    longest = int(statistics.median(ticks))
    cancelled: list[str] = []
    attempt = 0
    while len(cancelled) < _CANCELLATIONS:
        name = f"name-{attempt}"
        task = asyncio.create_task(acquire(name))
        for _ in range(attempt % longest):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if task.cancelled():
            cancelled.append(name)
        attempt += 1
    return cancelled


@pytest.mark.slow
async def test_cancelled_acquisitions_leave_no_orphans(
    nodes: Nodes, record_fault: RecordFault
) -> None:
    before = asyncio.all_tasks()
    granted: list[str] = []
    async with open_locks(nodes.strategy, nodes.urls) as locks:

        async def acquire(name: str) -> None:
            lease = await locks.try_acquire(name, ttl=600)
            assert lease is not None
            granted.append(name)
            await lease.release()

        cancelled = await sweep(acquire)
        await nodes.none_left()
    assert asyncio.all_tasks() == before

    control = await _control(nodes)
    record_fault(
        "cancelled at every moment of an acquisition",
        nodes.strategy,
        runs=len(cancelled),
        violations=0,
        control=f"redis-py's Lock: {control} orphans of {_CANCELLATIONS}",
    )
    assert granted, "some of the acquisitions got further than the grant"
    assert control > 0


async def _control(nodes: Nodes) -> int:
    """Orphans in the same sweep over the lock that redis-py brings."""
    await nodes.on_all("FLUSHALL")
    async with plain_client(nodes.urls[0]) as client:

        async def acquire(name: str) -> None:
            lock = client.lock(f"naive:{name}", timeout=20, blocking=False)
            assert await lock.acquire()
            await lock.release()

        await sweep(acquire)
        return len([key async for key in client.scan_iter("naive:*", count=1000)])


async def test_a_cancelled_wait_gives_its_turn_to_the_next(nodes: Nodes) -> None:
    async with (
        open_locks(nodes.strategy, nodes.urls) as locks,
        open_locks(nodes.strategy, nodes.urls) as others,
    ):
        held = await others.try_acquire("name", ttl=600)
        assert held is not None

        async def wait() -> int:
            async with locks.hold("name", timeout=HANG) as lease:
                return lease.fence

        waiters = [asyncio.create_task(wait()) for _ in range(20)]
        await nodes.heard_by("name")
        for waiter in waiters[::2]:
            waiter.cancel()
        await asyncio.sleep(0.01)
        await held.release()
        results = await asyncio.gather(*waiters, return_exceptions=True)
    fences = [result for result in results if isinstance(result, int)]
    assert len(fences) == 10
    assert fences == sorted(fences), "those who stayed are served in the order they came"


async def test_a_cancelled_block_gives_the_pool_its_connections_back(
    single: Nodes, clock: Clock
) -> None:
    url = single.urls[0]
    async with open_locks("lua", [url]) as locks:

        async def hold(name: str) -> None:
            async with locks.hold(name, ttl=60, timeout=HANG):
                await asyncio.sleep(HANG)

        for _ in range(3):
            tasks = [asyncio.create_task(hold(f"name-{number % 7}")) for number in range(100)]
            await asyncio.sleep(random.uniform(0.001, 0.05))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await single.none_left()
        # More at once than the pool has connections: they all come, if none was lost.
        with clock.stopped():  # on a busy machine their turn may come after five seconds
            leases = await asyncio.gather(
                *(locks.try_acquire(f"pool-{n}", ttl=600) for n in range(64))
            )
        assert all(leases)
        assert await single.lock_keys() == 64
