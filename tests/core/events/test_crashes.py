"""Subscribers that are killed or stopped, and servers that hand over to others."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from app.core.events import EventsLost
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.events.conftest import Counted, following, publishing, subscribing
from tests.support.asking import ask
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


def is_still(process: subprocess.Popen[bytes]) -> bool:
    """Whether it prints no more: it has ended, or is stopped."""
    if process.poll() is not None:
        return True
    return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "handled"),
    [
        pytest.param(signal.SIGKILL, 10, id="killed"),
        pytest.param(signal.SIGSTOP, 10, id="stopped while it handles"),
        pytest.param(signal.SIGSTOP, 50, id="stopped while it waits"),
    ],
)
async def test_another_process_goes_on_for_one_that_is_gone(
    redis: Redis, server: EmbeddedValkey, tmp_path: Path, end: signal.Signals, handled: int
) -> None:
    """Of what the one has handled, only the event that it was at can come again."""
    output = tmp_path / "output"
    received: list[int] = []
    with subscriber(server.url, output) as process:
        await until(lambda: "ready" in output.read_text())
        async with publishing(server.url) as orders:
            for number in range(50):
                await orders.publish(Counted(number=number))
            await until(lambda: len(numbers(output)) >= handled)
            process.send_signal(end)
            await until(lambda: is_still(process))
            before = numbers(output)
            async with subscribing(
                server.url, lambda event: received.append(event.number), ownership_ttl=TTL
            ):
                for number in range(50, 100):
                    await orders.publish(Counted(number=number))
                await until(lambda: received[-1:] == [99])
                if end == signal.SIGSTOP:  # it wakes up, and owns the stream no more
                    process.send_signal(signal.SIGCONT)
                    await orders.publish(Counted(number=100))
                    await until(lambda: received[-1:] == [100])
                    await until(
                        lambda: "ownership_lost" in output.read_text(), what="that it notices"
                    )
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
            await until(lambda: len(received) >= 500)
    assert received == list(range(500))


@pytest.mark.slow
async def test_through_a_failover() -> None:
    """What the old primary had confirmed and not passed on is lost: there is nothing such here.

    If the machine stands still for half a second the sentinels fail over once more, and something
    may be; then the number is told.
    """
    seen: list[object] = []
    with ReplicatedValkey() as valkeys:
        async with (
            publishing(valkeys.url, patience=0.5) as orders,
            following(valkeys.url, seen, patience=0.5),
        ):
            for number in range(50):
                await orders.publish(Counted(number=number))
            await until(lambda: len(seen) >= 50)
            await asyncio.to_thread(valkeys.wait_until_settled)
            await until(lambda: is_in_step(valkeys))
            old = valkeys.kill_primary()
            for number in range(50, 100):
                await orders.publish(Counted(number=number))
            await asyncio.to_thread(valkeys.wait_for_new_primary, old)
            await until(lambda: seen[-1:] == [99])
    received = [number for number in seen if isinstance(number, int)]
    lost = [each.count for each in seen if isinstance(each, EventsLost)]
    assert received == sorted(set(received))
    assert len(received) + sum(count or 0 for count in lost) == 100


def is_in_step(valkeys: ReplicatedValkey) -> bool:
    """Whether both servers have all that the primary has confirmed."""
    offsets = {
        ask(server, "INFO", "replication")["master_repl_offset"] for server in valkeys.servers
    }
    return len(offsets) == 1
