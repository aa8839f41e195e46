"""Everything goes wrong, by lot, under several processes: no two may ever hold the lock."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from devservers.waiting import HANG, wait_until
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import Nodes, ask
from tests.core.locks.processes import Worker, finish, journal, running, signal_to
from tests.core.locks.worker import Job

_WORKERS, _TASKS = 3, 3
_ROUNDS = 2
_MOST_ROUNDS = 20
_TTL = 0.8

Workers = Sequence[Worker]


def freeze(nodes: Nodes, workers: Workers) -> None:
    victims = some_of(nodes)
    for server in victims:
        server.freeze()
    time.sleep(random.uniform(0.05, 1.2) * _TTL)
    for server in victims:
        server.thaw()


def crash(nodes: Nodes, workers: Workers) -> None:
    for server in (victims := random.sample(nodes.servers, len(nodes.majority))):
        server.kill()
    for server in victims:
        server.restart()


def flush(nodes: Nodes, workers: Workers) -> None:
    for server in random.sample(nodes.servers, len(nodes.majority)):
        send(server.url, "FLUSHALL")


def forget_scripts(nodes: Nodes, workers: Workers) -> None:
    for server in some_of(nodes):
        send(server.url, "SCRIPT", "FLUSH")


def cut_pubsub(nodes: Nodes, workers: Workers) -> None:
    for server in some_of(nodes):
        send(server.url, "CLIENT", "KILL", "TYPE", "pubsub")


def cut_all(nodes: Nodes, workers: Workers) -> None:
    for server in some_of(nodes):
        send(server.url, "CLIENT", "KILL", "TYPE", "normal")


def stop_a_worker(nodes: Nodes, workers: Workers) -> None:
    worker = random.choice(workers)
    signal_to(worker, signal.SIGSTOP)
    time.sleep(random.uniform(0.1, 1.5) * _TTL)
    signal_to(worker, signal.SIGCONT)


FAULTS: list[Callable[[Nodes, Workers], None]] = [
    freeze,
    crash,
    flush,
    forget_scripts,
    cut_pubsub,
    cut_all,
    stop_a_worker,
]


def some_of(nodes: Nodes) -> list[Any]:
    return random.sample(nodes.servers, random.randint(1, len(nodes.majority)))


def send(url: str, *command: str) -> None:
    asyncio.run(ask(url, *command))


def held_in(folder: Path) -> list[dict[str, Any]]:
    """When the lock was held, in order; whoever stood still until its lease was over never did."""
    periods = [period for period in journal(folder) if period["ended"] > period["began"]]
    return sorted(periods, key=lambda period: period["began"])


def overlaps(periods: Sequence[dict[str, Any]]) -> int:
    """How many began while an earlier one lasted."""
    found, latest = 0, 0.0
    for period in periods:
        found += period["began"] < latest
        latest = max(latest, period["ended"])
    return found


@pytest.mark.slow
def test_chaos(nodes: Nodes, tmp_path: Path, record_fault: RecordFault) -> None:
    """The control, redis-py's lock, runs beside it on the same servers."""
    kinds = {"locks": nodes.strategy, "control": "redis_py"}
    for kind in kinds:
        (tmp_path / kind).mkdir()
    workers = [
        [
            Job(
                kind="endure",
                lock=lock,
                urls=nodes.urls,
                folder=str(tmp_path / kind),
                worker=worker,
                tasks=_TASKS,
                rounds=0,
                ttl=_TTL,
                quarantine=_TTL,
            )
            for kind, lock in kinds.items()
        ]
        for worker in range(_WORKERS)
    ]
    happened = 0
    with running(workers) as processes:
        # A new server waits at first.
        wait_until(lambda: journal(tmp_path / "locks"), what="the first grant", seconds=2 * HANG)
        for number in range(_MOST_ROUNDS):
            for fault in random.sample(FAULTS, len(FAULTS)):
                fault(nodes, processes)
                time.sleep(random.uniform(0.05, 0.4))
                happened += 1
            # On a busy machine there is less time in which somebody holds a lock.
            enough = len(journal(tmp_path / "locks")) > _WORKERS
            if number + 1 >= _ROUNDS and enough and overlaps(held_in(tmp_path / "control")):
                break
        for kind in kinds:
            (tmp_path / kind / "enough").touch()
        finish(processes)
    asyncio.run(nodes.none_left())  # what a frozen server ran late is gone after a ttl

    periods, control = held_in(tmp_path / "locks"), held_in(tmp_path / "control")
    fences = [period["fence"] for period in periods]
    disorder = sum(later <= earlier for earlier, later in pairwise(fences))
    twice, twice_control = overlaps(periods), overlaps(control)
    record_fault(
        f"{len(FAULTS)} kinds of fault by lot, {len(fences)} grants to {_WORKERS} processes",
        nodes.strategy,
        runs=happened,
        violations=twice + disorder,
        control=f"redis-py's Lock: {twice_control} of {len(control)} grants were second ones",
    )
    assert len(fences) > _WORKERS, "the lock was held in between"
    assert (twice, disorder) == (0, 0)
    assert twice_control > 0
