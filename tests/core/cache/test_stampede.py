"""Four processes with fifty callers each want one key, whose loader takes 200 ms."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.cache import loading
from app.core.cache.refresh import _COOLDOWN_SECONDS as REFRESH_PAUSE
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Clock, Source
from tests.core.cache.stampede_worker import CALLERS, THROTTLE

PROCESSES = 4
ROOT = Path(__file__).parents[3]

Record = Callable[[str, object], None]
Worker = subprocess.Popen[str]


@pytest.fixture(scope="module")
def workers(shared_server: EmbeddedValkey) -> Iterator[list[Worker]]:
    command = [sys.executable, "-m", "tests.core.cache.stampede_worker", shared_server.url]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "template")])
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": paths},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(PROCESSES)
        ]


def answer(worker: Worker) -> dict[str, Any]:
    assert worker.stdout is not None
    for line in worker.stdout:  # the others are its log
        if line.startswith("{"):
            result: dict[str, Any] = json.loads(line)
            return result
    raise RuntimeError("the worker ended")


async def stampede(
    workers: list[Worker], redis: Redis, scenario: str
) -> tuple[list[float], list[dict[str, Any]]]:
    """When the loader ran, by the clock that all processes share, and what each of them saw."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{scenario}\n")
        worker.stdin.flush()

    async def all_are_ready() -> bool:
        return int(await redis.get("ready") or 0) == PROCESSES

    await until(all_are_ready)
    await redis.rpush("go", *["now"] * PROCESSES)
    if scenario == "stale":
        for _ in workers:
            assert await redis.blpop(["answers"], timeout=HANG)
        await redis.rpush("answered", "all")
    seen = [await asyncio.to_thread(answer, worker) for worker in workers]
    return [float(moment) for moment in await redis.lrange("loads", 0, -1)], seen


@pytest.mark.slow
async def test_a_cold_key_is_loaded_once(
    workers: list[Worker], redis: Redis, record_property: Record
) -> None:
    loads, seen = await stampede(workers, redis, "cold")
    assert len(loads) == 1
    assert all(one["values"] == [1] and one["calls"] == CALLERS for one in seen)
    loaded = float(await redis.get("loaded") or 0)
    late = max(one["answered"] for one in seen) - loaded
    record_property("last answer after the load (ms)", round(1000 * late))
    # The longest time between two looks of a process that waits for another.
    assert late - sum(one["paused"] for one in seen) < 0.375 + 0.3


@pytest.mark.slow
async def test_a_stale_key_is_loaded_once_and_nobody_waits(
    workers: list[Worker], redis: Redis
) -> None:
    loads, seen = await stampede(workers, redis, "stale")
    assert len(loads) == 1
    assert all(one["values"] == [0] for one in seen)  # before the load had ended


@pytest.mark.slow
async def test_a_failing_loader_is_asked_once_per_throttle_window(
    workers: list[Worker], redis: Redis, record_property: Record
) -> None:
    loads, seen = await stampede(workers, redis, "failing")
    record_property("seconds between loads", [after - before for before, after in pairwise(loads)])
    assert all(one["values"] == [0] for one in seen)
    assert len(loads) > 1
    assert all(after - before >= THROTTLE for before, after in pairwise(loads))
    assert sum(one["calls"] for one in seen) > 50 * len(loads)


@pytest.mark.slow
async def test_control_without_waiting_for_the_lease_every_process_loads(
    workers: list[Worker], redis: Redis
) -> None:
    loads, _ = await stampede(workers, redis, "control")
    assert len(loads) > 1


async def commands_of_waiting(another: OpenCache, redis: Redis) -> float:
    """What one process sends in a second while another one loads."""
    one, two = [(await another()).policy("item", int, ttl=60, lease_wait=HANG) for _ in range(2)]
    source = Source(1)
    source.hold()
    holding = asyncio.create_task(one.get_or_load(1, source.load))
    await source.started.wait()
    before = (await redis.info("stats"))["total_commands_processed"]
    waiting = [asyncio.create_task(two.get_or_load(1, source.load)) for _ in range(CALLERS)]
    began = monotonic()
    await asyncio.sleep(0.5)
    commands = (await redis.info("stats"))["total_commands_processed"] - before
    seconds = monotonic() - began
    source.release()
    assert list(await asyncio.gather(holding, *waiting)) == [1] * (CALLERS + 1)
    assert source.loads == 1
    return float(commands / seconds)


async def test_a_process_that_waits_asks_politely(another: OpenCache, redis: Redis) -> None:
    """20 to 250 ms between two looks, with jitter: no busy loop."""
    assert await commands_of_waiting(another, redis) < 120  # scripts count their commands, too


async def test_control_without_a_pause_a_process_that_waits_spins(
    another: OpenCache, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_FIRST_POLL_SECONDS", 0)
    assert await commands_of_waiting(another, redis) > 120


async def test_stale_readers_do_not_ask_for_the_lease_again_and_again(
    another: OpenCache, redis: Redis, clock: Clock
) -> None:
    options = {"ttl": 60, "stale_while_revalidate": 3600}
    one, two = [(await another()).policy("item", int, **options) for _ in range(2)]
    source = Source(1)
    await one.get_or_load(1, source.load)
    clock.advance(60)
    source.hold()
    await one.get_or_load(1, source.load)
    await source.started.wait()

    async def scripts() -> int:
        stats = await redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))

    before, began = await scripts(), monotonic()
    for _ in range(200):
        assert await two.get_or_load(1, source.load) == 1
    assert await scripts() - before <= 2 + (monotonic() - began) / REFRESH_PAUSE
    source.release()
