"""A process that uses locks, for tests that need several.

Its jobs are done all at once. What the worker saw goes to the job's journal, one JSON object a
line, written before the next step, so that a worker that is killed or stopped still testifies.
"""

import asyncio
import json
import math
import os
import random
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.core.locks import LockLost, LockTimeout
from devservers.waiting import HANG
from tests.core.locks.nodes import open_locks, plain_client

NAME = "shared"


@dataclass(frozen=True, kw_only=True)
class Job:
    kind: str
    """"collect", "account" or "endure"."""
    lock: str
    """"lua", "redlock", or a control: "check_then_set", "redis_py"."""
    urls: list[str]
    folder: str
    worker: int
    tasks: int
    rounds: int
    """Of a "collect"."""
    ttl: float
    quarantine: float = 0
    """It is also the longest ttl, as in production."""


@dataclass(slots=True)
class Grant:
    """What the critical section knows about its lock."""

    fence: int
    deadline: Callable[[], float]
    """Until when the lock was surely ours, by `time.monotonic()`, also once it is lost."""


Hold = Callable[..., AbstractAsyncContextManager[Grant]]


def work(jobs: Sequence[Job]) -> None:
    """Do all jobs, and return when they are done."""
    asyncio.run(_run_all(jobs))


async def _run_all(jobs: Sequence[Job]) -> None:
    await asyncio.gather(*(_run(job) for job in jobs))


async def _run(job: Job) -> None:
    work = {"collect": _collect, "account": _account, "endure": _endure}[job.kind]
    async with _lock(job) as hold:
        await asyncio.gather(*(work(job, hold, task) for task in range(job.tasks)))


@asynccontextmanager
async def _lock(job: Job) -> AsyncIterator[Hold]:
    if job.lock in ("lua", "redlock"):
        options = {"quarantine": job.quarantine, "max_ttl": job.quarantine or 60}
        async with open_locks(job.lock, job.urls, **options) as locks:

            @asynccontextmanager
            async def hold(patience: float = 10 * HANG) -> AsyncIterator[Grant]:
                async with locks.hold(NAME, ttl=job.ttl, timeout=patience) as lease:
                    # Written out once more: what the lease thinks of itself is under test.
                    shortened = 0.99 * job.ttl - 0.002
                    yield Grant(lease.fence, lambda: lease.renewed + shortened)

            yield hold
    else:
        control = _redis_py if job.lock == "redis_py" else _check_then_set
        async with plain_client(job.urls[0]) as client:
            yield partial(control, client, job.ttl)


@asynccontextmanager
async def _check_then_set(client: Redis, ttl: float) -> AsyncIterator[Grant]:
    """Looks whether the lock is free and then takes it: two may look at the same time."""
    while True:
        if await client.get(NAME) is None:
            break
        await asyncio.sleep(random.uniform(0, 0.005))
    await client.set(NAME, "mine", px=int(ttl * 1000))
    try:
        yield Grant(0, lambda: math.inf)
    finally:
        await client.delete(NAME)


@asynccontextmanager
async def _redis_py(client: Redis, ttl: float, patience: float) -> AsyncIterator[Grant]:
    """redis-py's own lock: not renewed, and forgotten with the server's memory."""
    lock = client.lock(NAME, timeout=ttl, sleep=0.01, blocking_timeout=patience)
    try:
        async with lock:
            yield Grant(0, lambda: math.inf)
    except (RedisError, OSError, TimeoutError) as error:
        raise LockTimeout from error


async def _collect(job: Job, hold: Hold, task: int) -> None:
    """Add elements to a set in a file that only the lock protects (Jepsen's locking set)."""
    shared = Path(job.folder, "set.json")
    for round_number in range(job.rounds):
        element = f"{job.worker}-{task}-{round_number}"
        async with hold() as grant:
            began = time.monotonic()
            elements = _read(shared)
            await asyncio.sleep(random.uniform(0, 0.004))
            _replace(shared, [*elements, element])
            ended = min(time.monotonic(), grant.deadline())
            _testify(job, began=began, ended=ended, fence=grant.fence)


async def _account(job: Job, hold: Hold, task: int) -> None:
    """Count up two accounts until told to stop; the database checks the fence of one of them."""
    enough = Path(job.folder, "enough")
    with sqlite3.connect(Path(job.folder, "bank.db"), timeout=5, isolation_level=None) as bank:
        bank.execute("PRAGMA synchronous = OFF")  # processes stop here, the machine does not
        while not _exists(enough):
            with suppress(LockLost, LockTimeout):
                async with hold() as grant:
                    # The fence has to be raised before the read. A check at the write alone would
                    # let an older holder write between our read and our write.
                    bank.execute(
                        "UPDATE account SET fence = ? WHERE name = 'fenced' AND fence < ?",
                        (grant.fence, grant.fence),
                    )
                    accounts = dict(bank.execute("SELECT name, value FROM account"))
                    # No check of the lease, and nothing that could be cancelled in between: it is
                    # the database that has to notice.
                    _stop_if_told(Path(job.folder), grant.fence)
                    fenced = bank.execute(
                        "UPDATE account SET value = ? WHERE name = 'fenced' AND fence = ?",
                        (accounts["fenced"] + 1, grant.fence),
                    )
                    bank.execute(
                        "UPDATE account SET value = ? WHERE name = 'plain'",
                        (accounts["plain"] + 1,),
                    )
                    _testify(job, fence=grant.fence, accepted=fenced.rowcount == 1)
                # Let the others have a turn: this worker's next attempt is not what is tested.
                await asyncio.sleep(random.uniform(0, 0.02))


async def _endure(job: Job, hold: Hold, task: int) -> None:
    """Hold the lock again and again, whatever happens, and note when it was surely ours."""
    enough = Path(job.folder, "enough")
    while not _exists(enough):
        with suppress(LockLost, LockTimeout):
            async with hold(patience=random.choice([0.02, 0.5])) as grant:
                began = time.monotonic()
                # Most are over soon; some need to be renewed.
                longest = 1.5 * job.ttl if random.random() < 0.3 else 0.05
                try:
                    await asyncio.sleep(random.uniform(0, longest))
                finally:
                    ended = min(time.monotonic(), grant.deadline())
                    _testify(job, began=began, ended=ended, fence=grant.fence)
        await asyncio.sleep(random.uniform(0, 0.01))


def _stop_if_told(folder: Path, fence: int) -> None:
    """Stand still, if the test wants that of somebody, until it sends SIGCONT."""
    stopped = folder / f"stopped-{os.getpid()}"
    with suppress(FileNotFoundError):
        (folder / "stop").rename(stopped)
        stopped.write_text(str(fence))
        os.kill(os.getpid(), signal.SIGSTOP)


def _exists(path: Path) -> bool:
    return path.exists()


def _read(path: Path) -> list[str]:
    elements: list[str] = json.loads(path.read_text())
    return elements


def _replace(path: Path, elements: list[str]) -> None:
    """In one step, so that what a broken lock loses are updates and not the file."""
    draft = path.with_name(f"draft-{elements[-1]}")
    draft.write_text(json.dumps(elements))
    draft.replace(path)


def _testify(job: Job, **facts: object) -> None:
    with Path(job.folder, f"journal-{job.worker}.jsonl").open("a") as journal:
        journal.write(json.dumps(facts) + "\n")
