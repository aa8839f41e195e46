"""Subscribers that are killed or stopped, and servers that hand over to others."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from devservers.valkey import EmbeddedValkey
from tests.core.cache.harness import until
from tests.core.events.conftest import Counted, publishing, subscribing
from tests.support.cluster import EmbeddedCluster
from tests.support.sentinel import ReplicatedValkey

ROOT = Path(__file__).parents[3]
TTL = 1.0


@contextmanager
def subscriber(url: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process of `billing`."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "template")])
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.core.events.subscriber", url, str(TTL)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdout=file,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def numbers(output: Path) -> list[int]:
    lines = [line for line in output.read_text().splitlines() if line.isdecimal()]
    return [int(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_another_process_goes_on_for_one_that_is_gone(
    redis: Redis, server: EmbeddedValkey, tmp_path: Path, end: signal.Signals
) -> None:
    """Of what the one has handled, only the event that it was at can come again."""
    output = tmp_path / "output"
    received: list[int] = []
    with subscriber(server.url, output) as process:
        await until(lambda: "ready" in output.read_text(), seconds=30)
        async with publishing(server.url) as orders:
            for number in range(50):
                await orders.publish(Counted(number=number))
            await until(lambda: len(numbers(output)) > 10, seconds=30)
            process.send_signal(end)
            await asyncio.sleep(0.05)
            before = numbers(output)
            async with subscribing(
                server.url, lambda event: received.append(event.number), turn_ttl=TTL
            ):
                for number in range(50, 100):
                    await orders.publish(Counted(number=number))
                await until(lambda: received[-1:] == [99], seconds=30)
                if end == signal.SIGSTOP:  # it wakes up, and has lost its turn
                    process.send_signal(signal.SIGCONT)
                    await orders.publish(Counted(number=100))
                    await until(lambda: received[-1:] == [100], seconds=30)
                    await asyncio.sleep(0.5)
    assert before == list(range(len(before)))
    assert received == list(range(received[0], received[-1] + 1))
    assert received[0] in (len(before), len(before) - 1)
    assert len(numbers(output)) <= len(before) + 1


@pytest.mark.slow
async def test_in_a_cluster() -> None:
    received: list[int] = []
    with EmbeddedCluster() as cluster:
        async with (
            publishing(cluster.url) as orders,
            subscribing(cluster.url, lambda event: received.append(event.number)),
        ):
            await asyncio.gather(*(orders.publish(Counted(number=n)) for n in range(500)))
            await until(lambda: len(received) >= 500, seconds=30)
    assert received == list(range(500))


@pytest.mark.slow
async def test_through_a_failover() -> None:
    """What the old primary had confirmed and not passed on would be lost: nothing here is."""
    received: list[int] = []
    with ReplicatedValkey() as valkeys:
        async with (
            publishing(valkeys.url, patience=0.5) as orders,
            subscribing(valkeys.url, lambda event: received.append(event.number), patience=0.5),
        ):
            for number in range(50):
                await orders.publish(Counted(number=number))
            await until(lambda: len(received) == 50, seconds=30)
            await asyncio.sleep(0.5)  # the replica is in step
            old = valkeys.kill_primary()
            for number in range(50, 100):
                await orders.publish(Counted(number=number))
            await asyncio.to_thread(valkeys.wait_for_new_primary, old)
            await until(lambda: received[-1:] == [99], seconds=40)
    assert received == list(range(100))
