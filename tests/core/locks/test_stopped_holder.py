"""Holders that stand still for longer than their lease lasts, as in a long garbage collection."""

import asyncio
import random
import signal
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import pytest
from redis.exceptions import LockNotOwnedError

from app.core.locks import LockLost, Locks
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import Nodes, plain_client, settle
from tests.core.locks.processes import finish, journal, running
from tests.core.locks.worker import Job

_WORKERS = 3
_STOPS = 6
_TTL = 0.4


def who_is_inside(folder: Path) -> int:
    """The worker that has just read what it will write."""
    inside = folder / "inside"
    inside.unlink(missing_ok=True)
    while not inside.exists():
        time.sleep(0.001)
    return int(inside.read_text())


@pytest.mark.slow
def test_stopped_holders_cannot_overwrite_newer_data(
    nodes: Nodes, tmp_path: Path, record_fault: RecordFault
) -> None:
    """The lock alone does lose updates here, and so it must: that is what the fence is for."""
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
        for _ in range(_STOPS):
            holder = processes[who_is_inside(tmp_path)]
            holder.send_signal(signal.SIGSTOP)
            time.sleep(random.uniform(0.8, 2.0) * _TTL)
            holder.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        (tmp_path / "enough").touch()
        finish(processes, within=40)

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
    assert refused > 0


@pytest.mark.slow
async def test_a_stalled_event_loop_is_noticed(
    nodes: Nodes, locks: Locks, others: Locks, record_fault: RecordFault
) -> None:
    """A stall ends with a refused check, or with the first thing the body awaits."""
    ttl = 0.5
    reached: list[str] = []

    def stand_still() -> None:
        time.sleep(1.5 * ttl)

    async def stall(*, check: bool) -> None:
        async with locks.hold("name", ttl=ttl) as lease:
            stand_still()
            if check:
                lease.check()
                reached.append("what follows the check")
            await asyncio.sleep(1)
            reached.append("what follows an await")

    for check in (True, False):
        with pytest.raises(LockLost):
            await stall(check=check)
        thief = await others.try_acquire("name", ttl=5)
        assert thief is not None
        await settle()
        assert len(await nodes.holders("name")) >= len(nodes.majority)
        assert await thief.release()
    reached_control = False
    async with plain_client(nodes.urls[0]) as client:
        with suppress(LockNotOwnedError):  # which comes too late
            async with client.lock("naive", timeout=ttl):
                stand_still()
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
    nodes: Nodes, locks: Locks, others: Locks, record_fault: RecordFault
) -> None:
    late = await locks.try_acquire("name", ttl=0.4)
    assert late is not None
    await asyncio.sleep(0.45)
    current = await others.try_acquire("name", ttl=5)
    assert current is not None
    await settle()
    held = len(await nodes.holders("name"))
    await late.release()
    await settle()
    survived = len(await nodes.holders("name"))

    await nodes.evict("name")  # what a release without a token does
    survived_control = len(await nodes.holders("name"))
    record_fault(
        "release after the lease ran out",
        nodes.strategy,
        runs=1,
        violations=held - survived,
        control=f"DEL without a token: {survived_control} of {held} keys left",
    )
    assert survived == held >= len(nodes.majority)
    assert survived_control == 0
