"""Locks beside redis-py's: how long they take, and how many commands they cost.

    python benchmarks/locks.py

Everything runs in one go, on embedded servers of this machine, in under a minute. Compare the rows
of one run with each other; the numbers of two machines say nothing about each other.
"""

import asyncio
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1] / "template")]

from redis.asyncio import Redis

from app.core.locks import Locks
from app.core.locks.lua import LuaStore
from app.core.locks.redlock import RedlockStore
from app.core.redis import ClientOptions, create_client
from devservers.valkey import EmbeddedValkey

Period = tuple[float, float, str]
"""When a task began and ended to hold the lock, and which."""
Hold = Callable[[str], AbstractAsyncContextManager[object]]

_NODES = 5
_PROCESSES, _TASKS, _ROUNDS = 2, 10, 10


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Redis]:
    client = create_client(url, ClientOptions(name="benchmark"))
    assert isinstance(client, Redis)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def lua(urls: Sequence[str]) -> AsyncIterator[Hold]:
    async with (
        client_of(urls[0]) as client,
        Locks(LuaStore(client), prefix="bench", quarantine=0) as locks,
    ):
        yield lambda name: locks.hold(name, timeout=30)


@asynccontextmanager
async def redlock(urls: Sequence[str]) -> AsyncIterator[Hold]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(url)) for url in urls]
        async with Locks(RedlockStore(clients), prefix="bench", quarantine=0) as locks:
            yield lambda name: locks.hold(name, timeout=30)


@asynccontextmanager
async def redis_py(urls: Sequence[str]) -> AsyncIterator[Hold]:
    async with client_of(urls[0]) as client:
        yield lambda name: client.lock(f"bench:{name}", timeout=10, blocking_timeout=30)


# How to open it, on how many nodes, and which of the commands that the servers count come from
# clients: those that a script calls are counted as well, and are no messages.
_SCRIPTED = ("evalsha", "eval", "subscribe", "unsubscribe", "ping")
STRATEGIES = {
    "Locks, lua": (lua, 1, _SCRIPTED),
    "Locks, redlock (5 nodes)": (redlock, _NODES, _SCRIPTED),
    "redis-py asyncio Lock": (redis_py, 1, ("set", *_SCRIPTED)),
}


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


async def uncontended(hold: Hold, *, runs: int = 300) -> list[float]:
    """Seconds for an acquisition and its release that nobody competes with."""
    times = []
    for run in range(runs + 20):
        began = time.perf_counter()
        async with hold(f"free-{run % 50}"):
            pass
        times.append(time.perf_counter() - began)
    return times[20:]  # without the warm-up


def contend(strategy: str, urls: Sequence[str], report: "multiprocessing.SimpleQueue[Any]") -> None:
    """One process that competes: when which of its tasks held the lock."""
    report.put(asyncio.run(_contend(strategy, urls)))


async def _contend(strategy: str, urls: Sequence[str]) -> list[Period]:
    periods: list[Period] = []
    opened, _, _ = STRATEGIES[strategy]
    async with opened(urls) as hold:

        async def insist(task: str) -> None:
            for _ in range(_ROUNDS):
                async with hold("busy"):
                    began = time.monotonic()
                    await asyncio.sleep(0.002)
                    periods.append((began, time.monotonic(), task))

        await asyncio.gather(*(insist(f"{os.getpid()} {task}") for task in range(_TASKS)))
    return periods


def contended(strategy: str, urls: Sequence[str]) -> list[float]:
    """Seconds from the end of one task's work to the beginning of another's.

    A task that takes the lock again before anybody has noticed its release has handed nothing off.
    """
    spawn = multiprocessing.get_context("spawn")
    reports = [spawn.SimpleQueue() for _ in range(_PROCESSES)]
    processes = [spawn.Process(target=contend, args=(strategy, urls, report)) for report in reports]
    for process in processes:
        process.start()
    periods = sorted(period for report in reports for period in report.get())
    for process in processes:
        process.join()
    busiest = periods[len(periods) // 10 : -len(periods) // 10]  # while all compete
    return [
        began - ended
        for (_, ended, before), (began, _, after) in pairwise(busiest)
        if before != after
    ]


async def count(commands: Sequence[str], urls: Sequence[str]) -> int:
    """How often all servers together have been sent one of these commands."""
    calls = 0
    for url in urls:
        async with client_of(url) as client:
            seen = await client.info("commandstats")
            calls += sum(seen.get(f"cmdstat_{name}", {}).get("calls", 0) for name in commands)
    return calls


async def minority_gone(servers: Sequence[EmbeddedValkey]) -> tuple[float, float]:
    """Acquire p50 of redlock with all nodes, and with one killed and one frozen."""
    urls = [server.url for server in servers]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(url)) for url in urls]
        locks = await stack.enter_async_context(
            Locks(RedlockStore(clients), prefix="bench", quarantine=0)
        )

        async def acquire_p50() -> float:
            times = []
            for run in range(150):
                began = time.perf_counter()
                lease = await locks.try_acquire(f"minority-{run % 50}")
                times.append(time.perf_counter() - began)
                assert lease is not None
                await lease.release()
            return statistics.median(times)

        await acquire_p50()
        healthy = await acquire_p50()
        servers[-1].kill()
        servers[-2].freeze()
        degraded = await acquire_p50()
        servers[-2].thaw()
    return healthy, degraded


def main() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(EmbeddedValkey()) for _ in range(_NODES)]
        print(
            f"{'':26}{'acquire + release, ms':>24}{'hand-off, ms':>20}{'commands':>14}\n"
            f"{'':26}{'p50':>14}{'p95':>10}{'p50':>10}{'p95':>10}{'per hand-off':>14}"
        )
        for strategy, (opened, nodes, commands) in STRATEGIES.items():
            urls = [server.url for server in servers[:nodes]]

            async def free(opened: Any = opened, urls: Sequence[str] = urls) -> list[float]:
                async with opened(urls) as hold:
                    return await uncontended(hold)

            times = asyncio.run(free())
            before = asyncio.run(count(commands, urls))
            handoffs = contended(strategy, urls)
            spent = asyncio.run(count(commands, urls)) - before
            print(
                f"{strategy:26}"
                f"{quantile(times, 0.5) * 1000:>14.2f}{quantile(times, 0.95) * 1000:>10.2f}"
                f"{quantile(handoffs, 0.5) * 1000:>10.2f}{quantile(handoffs, 0.95) * 1000:>10.2f}"
                f"{spent / (_PROCESSES * _TASKS * _ROUNDS):>14.1f}"
            )
        healthy, degraded = asyncio.run(minority_gone(servers))
        print(
            f"\nredlock with 1 of 5 nodes killed and 1 frozen: acquire p50 "
            f"{degraded * 1000:.2f} ms, healthy {healthy * 1000:.2f} ms, "
            f"ratio {degraded / healthy:.2f}"
        )


if __name__ == "__main__":
    main()
