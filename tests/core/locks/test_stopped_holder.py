"""Holders that stand still for longer than their lease lasts, as in a long garbage collection."""

import asyncio
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from redis.exceptions import LockNotOwnedError

from app.core.locks import LockLost, Locks
from devservers.waiting import wait_until
from tests.core.locks.clock import Clock
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import Nodes, plain_client
from tests.core.locks.processes import finish, journal, pid_of, running
from tests.core.locks.worker import Job

_WORKERS = 3
_STOPS = 3
_TTL = 0.5


def stop_a_holder(folder: Path, workers: Sequence[psutil.Process]) -> tuple[psutil.Process, int]:
    """Let the next worker that has read what it will write stand still; with its fence."""
    (folder / "stop").touch()

    def stopped() -> list[psutil.Process]:
        told = [worker for worker in workers if (folder / f"stopped-{worker.pid}").exists()]
        return [worker for worker in told if worker.status() == psutil.STATUS_STOPPED]

    wait_until(stopped, what="a worker that stands still")
    [worker] = stopped()
    told = folder / f"stopped-{worker.pid}"
    fence = int(told.read_text())
    told.unlink()
    return worker, fence


def later_than(fence: int, folder: Path) -> None:
    """Wait until a later holder has written."""
    wait_until(lambda: max(fences(folder), default=0) > fence, what="the next holder")


def written_with(fence: int, folder: Path) -> None:
    """Wait until the one with that fence has tried to write."""
    wait_until(lambda: fence in fences(folder), what="the stale write")


def fences(folder: Path) -> list[int]:
    """Those of all that have written, or tried to."""
    return [section["fence"] for section in journal(folder)]


@pytest.mark.slow
def test_stopped_holders_cannot_overwrite_newer_data(
    nodes: Nodes, tmp_path: Path, record_fault: RecordFault
) -> None:
    """The lock alone does lose updates here, and so it must: that is what the fence is for.

    Holders stop between their read and their write, and go on when the next one has written.
    """
    bank = sqlite3.connect(tmp_path / "bank.db", isolation_level=None)
    bank.execute("CREATE TABLE account (name TEXT, value INTEGER, fence INTEGER)")
    bank.execute("INSERT INTO account VALUES ('fenced', 0, 0), ('plain', 0, 0)")
    workers = [
        [
            Job(
                kind="account",
                lock=nodes.strategy,
                urls=nodes.urls,
                folder=str(tmp_path),
                worker=worker,
                tasks=1,
                rounds=0,
                ttl=_TTL,
            )
        ]
        for worker in range(_WORKERS)
    ]
    with running(workers) as processes:
        found = [psutil.Process(pid_of(process)) for process in processes]
        for _ in range(_STOPS):
            holder, fence = stop_a_holder(tmp_path, found)
            later_than(fence, tmp_path)
            holder.send_signal(signal.SIGCONT)
            written_with(fence, tmp_path)
        (tmp_path / "enough").touch()
        finish(processes)

    values = dict(bank.execute("SELECT name, value FROM account"))
    bank.close()
    sections = journal(tmp_path)
    accepted = [section["fence"] for section in sections if section["accepted"]]
    refused = len(sections) - len(accepted)
    lost_fenced = len(accepted) - values["fenced"]
    lost_plain = len(sections) - values["plain"]
    record_fault(
        "SIGSTOP of holders between read and write",
        nodes.strategy,
        runs=_STOPS,
        violations=lost_fenced + len(accepted) - len(set(accepted)),
        control=f"without the fence {lost_plain} of {len(sections)} updates were lost; "
        f"with it {refused} stale writes were refused",
    )
    assert lost_fenced == 0
    assert len(set(accepted)) == len(accepted)
    assert lost_plain > 0
    assert refused >= _STOPS


@pytest.mark.slow
async def test_a_stalled_event_loop_is_noticed(
    nodes: Nodes, locks: Locks, others: Locks, clock: Clock, record_fault: RecordFault
) -> None:
    """A stall ends with a refused check, or with the first thing the body awaits."""
    ttl = 60
    reached: list[str] = []

    async def stall(*, check: bool) -> None:
        async with locks.hold("name", ttl=ttl) as lease:
            await nodes.expire("name")
            clock.jump(1.5 * ttl)
            if check:
                lease.check()
                reached.append("what follows the check")
            await asyncio.sleep(1)
            reached.append("what follows an await")

    for check in (True, False):
        with pytest.raises(LockLost):
            await stall(check=check)
        thief = await others.try_acquire("name", ttl=ttl)
        assert thief is not None
        await nodes.held_by_a_majority("name")
        assert await thief.release()
        await nodes.none_left()
    reached_control = False
    async with plain_client(nodes.urls[0]) as client:
        with suppress(LockNotOwnedError):  # which comes too late
            async with client.lock("naive", timeout=ttl):
                await client.delete("naive")
                clock.jump(1.5 * ttl)
                await asyncio.sleep(0.1)
                reached_control = True
    record_fault(
        "event loop stalled for 1.5 x ttl",
        nodes.strategy,
        runs=2,
        violations=len(reached),
        control=f"redis-py's Lock: the body {'ran on' if reached_control else 'was stopped'}",
    )
    assert not reached
    assert reached_control


async def test_a_late_release_leaves_the_next_holder_alone(
    nodes: Nodes, locks: Locks, others: Locks, clock: Clock, record_fault: RecordFault
) -> None:
    late = await locks.try_acquire("name", ttl=60)
    assert late is not None
    await nodes.expire("name")
    current = await others.try_acquire("name", ttl=60)
    assert current is not None
    await nodes.held_by_a_majority("name")
    held = set(await nodes.holders("name"))
    clock.jump(60)
    await late.release()  # goes on in the background, as the lease is over
    await locks.__aexit__(None, None, None)
    survived = set(await nodes.holders("name"))
    count = len(await nodes.holders("name"))

    await nodes.evict("name")  # what a release without a token does
    survived_control = len(await nodes.holders("name"))
    record_fault(
        "release after the lease ran out",
        nodes.strategy,
        runs=1,
        violations=len(held - survived),
        control=f"DEL without a token: {survived_control} of {count} keys left",
    )
    assert survived == held
    assert count >= len(nodes.majority)
    assert survived_control == 0
