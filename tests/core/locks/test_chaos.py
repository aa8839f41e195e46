"""Everything goes wrong, by lot, under several processes: no two may ever hold the lock."""

import asyncio
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import Nodes, ask
from tests.core.locks.processes import finish, journal, running
from tests.core.locks.worker import Job

_WORKERS, _TASKS = 3, 3
_ROUNDS = 2
_TTL = 0.8

Workers = Sequence["subprocess.Popen[str]"]


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
    worker.send_signal(signal.SIGSTOP)
    time.sleep(random.uniform(0.1, 1.5) * _TTL)
    worker.send_signal(signal.SIGCONT)


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


def overlaps(periods: Sequence[dict[str, Any]]) -> int:
    """How many began while an earlier one lasted."""
    found, latest = 0, 0.0
    for period in periods:
        found += period["began"] < latest
        latest = max(latest, period["ended"])
    return found


@pytest.mark.slow
def test_chaos(nodes: Nodes, tmp_path: Path, record_fault: RecordFault) -> None:
    """The control runs beside it, on the same servers, and trusts those that lost their memory."""
    periods: dict[str, list[dict[str, Any]]] = {}
    quarantines = {"locks": _TTL, "control": 0.0}
    for kind in quarantines:
        (tmp_path / kind).mkdir()
    workers = [
        [
            Job(
                kind="endure",
                lock=nodes.strategy,
                urls=nodes.urls,
                folder=str(tmp_path / kind),
                worker=worker,
                tasks=_TASKS,
                rounds=0,
                ttl=_TTL,
                quarantine=quarantine,
            )
            for kind, quarantine in quarantines.items()
        ]
        for worker in range(_WORKERS)
    ]
    faults = [fault for _ in range(_ROUNDS) for fault in random.sample(FAULTS, len(FAULTS))]
    with running(workers) as processes:
        while not journal(tmp_path / "locks"):  # a new server waits at first
            time.sleep(0.05)
        for fault in faults:
            fault(nodes, processes)
            time.sleep(random.uniform(0.05, 0.4))
        for kind in quarantines:
            (tmp_path / kind / "enough").touch()
        finish(processes, within=40)
    time.sleep(_TTL)  # what a frozen server ran late is gone by then
    orphans = asyncio.run(nodes.lock_keys())

    for kind in quarantines:
        # Whoever stood still until its lease was over never held it.
        held = [period for period in journal(tmp_path / kind) if period["ended"] > period["began"]]
        periods[kind] = sorted(held, key=lambda period: period["began"])
    fences = [period["fence"] for period in periods["locks"]]
    disorder = sum(later <= earlier for earlier, later in pairwise(fences))
    twice = overlaps(periods["locks"])
    twice_control = overlaps(periods["control"])
    record_fault(
        f"{len(FAULTS)} kinds of fault by lot, {len(fences)} grants to {_WORKERS} processes",
        nodes.strategy,
        runs=len(faults),
        violations=twice + disorder + orphans,
        control=f"without quarantine: {twice_control} of {len(periods['control'])} granted twice",
    )
    assert len(fences) > len(faults), "the lock was held in between"
    assert (twice, disorder, orphans) == (0, 0, 0)
    assert twice_control > 0
