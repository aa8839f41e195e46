"""Four processes with fifty callers each want one key, whose loader takes 200 ms."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.cache import engine
from devservers.valkey import EmbeddedValkey
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Source, until
from tests.core.cache.stampede_worker import CALLERS, LOAD_SECONDS

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
) -> tuple[int, list[dict[str, Any]]]:
    """How often the loader ran, and what each process saw."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{scenario}\n")
        worker.stdin.flush()

    async def all_are_ready() -> bool:
        return int(await redis.get("ready") or 0) == PROCESSES

    await until(all_are_ready, seconds=40)
    await redis.rpush("go", *["now"] * PROCESSES)
    seen = [await asyncio.to_thread(answer, worker) for worker in workers]
    return int(await redis.get("loads") or 0), seen


@pytest.mark.slow
async def test_a_cold_key_is_loaded_once(
    workers: list[Worker], redis: Redis, record_property: Record
) -> None:
    loads, seen = await stampede(workers, redis, "cold")
    record_property("longest wait (ms)", round(1000 * max(one["longest"] for one in seen)))
    assert loads == 1
    assert all(one["values"] == [1] and one["calls"] == CALLERS for one in seen)
    # The load, and the longest pause between two looks of a process that waits for another.
    assert max(one["longest"] for one in seen) < LOAD_SECONDS + 0.375 + 0.3


@pytest.mark.slow
async def test_a_stale_key_is_loaded_once_and_nobody_waits(
    workers: list[Worker], redis: Redis, record_property: Record
) -> None:
    loads, seen = await stampede(workers, redis, "stale")
    record_property("longest wait (ms)", round(1000 * max(one["longest"] for one in seen)))
    assert loads == 1
    assert all(one["values"] in ([0], [0, 1]) for one in seen)
    assert max(one["longest"] for one in seen) < LOAD_SECONDS


@pytest.mark.slow
async def test_a_failing_loader_is_asked_once_per_throttle_window(
    workers: list[Worker], redis: Redis, record_property: Record
) -> None:
    loads, seen = await stampede(workers, redis, "failing")
    record_property("loads in 2.5 s with a throttle of 1 s", loads)
    assert all(one["values"] == [0] for one in seen)
    # A window is the load and the throttle after it: two or three of them begin within 2.5 s.
    assert 2 <= loads <= 3
    assert sum(one["calls"] for one in seen) > 1_000


@pytest.mark.slow
async def test_control_without_waiting_for_the_lease_every_process_loads(
    workers: list[Worker], redis: Redis
) -> None:
    loads, _ = await stampede(workers, redis, "control")
    assert loads > 1


async def commands_of_waiting(another: OpenCache, redis: Redis) -> int:
    """What one process sends within half a second while another one loads."""
    one, two = [(await another()).policy("item", int, ttl=60) for _ in range(2)]
    source = Source(1)
    source.hold()
    holding = asyncio.create_task(one.get_or_load(1, source.load))
    await source.started.wait()
    before = (await redis.info("stats"))["total_commands_processed"]
    waiting = [asyncio.create_task(two.get_or_load(1, source.load)) for _ in range(CALLERS)]
    await asyncio.sleep(0.5)
    commands = (await redis.info("stats"))["total_commands_processed"] - before
    source.release()
    assert list(await asyncio.gather(holding, *waiting)) == [1] * (CALLERS + 1)
    assert source.loads == 1
    return int(commands)


async def test_a_process_that_waits_asks_politely(another: OpenCache, redis: Redis) -> None:
    """20 to 250 ms between two looks, with jitter: no busy loop."""
    assert await commands_of_waiting(another, redis) < 60  # scripts count their commands, too


async def test_control_without_a_pause_a_process_that_waits_spins(
    another: OpenCache, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_FIRST_POLL", 0)
    assert await commands_of_waiting(another, redis) > 200


async def test_stale_readers_do_not_ask_for_the_lease_again_and_again(
    another: OpenCache, redis: Redis
) -> None:
    options = {"ttl": 0.02, "jitter": 0, "stale_while_revalidate": 60}
    one, two = [(await another()).policy("item", int, **options) for _ in range(2)]
    source = Source(1)
    await one.get_or_load(1, source.load)
    await asyncio.sleep(0.03)
    source.hold()
    await one.get_or_load(1, source.load)
    await source.started.wait()

    async def scripts() -> int:
        stats = await redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))

    before = await scripts()
    for _ in range(200):
        assert await two.get_or_load(1, source.load) == 1
    assert await scripts() - before <= 2
    source.release()
