"""The process that loads a popular entry is killed; and one that lives keeps its fill lease."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest
from redis.asyncio import Redis

from app.core.cache import fill
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Source, lease_keys

Record = Callable[[str, object], None]

PROCESSES = 6
ROOT = Path(__file__).parents[3]


@pytest.fixture
def workers(shared_server: EmbeddedValkey) -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-m", "tests.core.cache.orphan_worker", shared_server.url]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "template")])
    env = {**os.environ, "PYTHONPATH": paths}
    with ExitStack() as stack:
        started = []
        for _ in range(PROCESSES):
            worker = subprocess.Popen(command, cwd=ROOT, env=env)
            stack.callback(worker.wait)
            stack.callback(worker.kill)
            started.append(worker)
        yield started


@pytest.mark.slow
async def test_when_a_loading_process_is_killed_one_other_loads(
    redis: Redis, workers: list[subprocess.Popen[bytes]], record_property: Record
) -> None:
    async def there_are(name: str, count: int) -> None:
        async def enough() -> bool:
            return int(await redis.llen(name)) >= count

        await until(enough)

    await there_are("ready", PROCESSES)
    await redis.rpush("go", *["now"] * PROCESSES)
    await there_are("loaders", 1)
    (loading,) = await redis.lrange("loaders", 0, -1)
    (lease,) = await lease_keys(redis)
    left = await redis.pttl(lease)
    os.kill(int(loading), signal.SIGKILL)
    killed = monotonic()
    await there_are("answered", PROCESSES - 1)
    record_property("seconds until the others were answered", round(monotonic() - killed, 2))
    loads = int(await redis.llen("loaders"))
    await redis.rpush("end", *["now"] * PROCESSES)
    for worker in workers:
        await asyncio.to_thread(worker.wait)
    assert left <= fill.LEASE_SECONDS * 1000
    assert loads == 2  # that of the dead one, and one more for all the others


async def open_two(another: OpenCache) -> tuple[Source[int], asyncio.Task[int], asyncio.Task[int]]:
    """One process that loads for as long as the test wants, and another one that waits for it."""
    one, two = [(await another()).policy("item", int, ttl=60, lease_wait=600) for _ in range(2)]
    source = Source(1)
    source.hold()
    loading = asyncio.create_task(one.get_or_load(1, source.load))
    await source.started.wait()
    return source, loading, asyncio.create_task(two.get_or_load(1, source.load))


async def renewals(redis: Redis, lease: bytes, count: int) -> None:
    """Wait until the lease was made to last longer so many times."""
    before = await redis.pttl(lease)
    for _ in range(count):

        async def longer() -> bool:
            nonlocal before
            before, last = await redis.pttl(lease), before
            return before > last

        await until(longer)


async def test_a_load_that_takes_longer_than_its_lease_keeps_it(
    another: OpenCache, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "_RENEW_INTERVAL_SECONDS", 0.05)
    source, loading, waiting = await open_two(another)
    (lease,) = await lease_keys(redis)
    token = await redis.get(lease)
    await renewals(redis, lease, 5)
    assert await redis.get(lease) == token
    source.release()
    assert list(await asyncio.gather(loading, waiting)) == [1, 1]
    assert source.loads == 1
    assert await lease_keys(redis) == []


async def test_control_without_renewal_another_process_loads_as_well(
    another: OpenCache, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill.LeaseRenewal, "_renew", lambda _: None)
    source, loading, waiting = await open_two(another)
    await until(lambda: source.loads == 2)
    source.release()
    assert list(await asyncio.gather(loading, waiting)) == [1, 1]


async def test_a_lease_that_an_invalidation_took_is_not_renewed(
    another: OpenCache, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "_RENEW_INTERVAL_SECONDS", 0.02)
    cache = await another()
    policy = cache.policy("item", int, ttl=60)
    source = Source(1)
    source.hold()
    loading = asyncio.create_task(policy.get_or_load(1, source.load))
    await source.started.wait()
    await policy.invalidate(1)
    held = cache.engine.filler._renewal._held
    await until(lambda: not held)
    assert await lease_keys(redis) == []
    source.release()
    assert await loading == 1
