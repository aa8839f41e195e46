"""Several processes update a file that nothing but the lock protects."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import Nodes
from tests.core.locks.processes import finish, journal, running
from tests.core.locks.worker import Job

_WORKERS, _TASKS, _ROUNDS = 3, 5, 8
_ELEMENTS = _WORKERS * _TASKS * _ROUNDS


def job(nodes: Nodes, lock: str, folder: Path, worker: int) -> Job:
    return Job(
        kind="collect",
        lock=lock,
        urls=nodes.urls,
        folder=str(folder),
        worker=worker,
        tasks=_TASKS,
        rounds=_ROUNDS,
        ttl=60,
    )


def lost(folder: Path) -> int:
    """How many of the elements are missing in the set."""
    collected: list[str] = json.loads((folder / "set.json").read_text())
    return _ELEMENTS - len(set(collected))


@pytest.mark.slow
def test_contention(nodes: Nodes, tmp_path: Path, record_fault: RecordFault) -> None:
    locked, control = tmp_path / "locked", tmp_path / "control"
    for folder in (locked, control):
        folder.mkdir()
        (folder / "set.json").write_text("[]")
    workers = [
        [
            job(nodes, nodes.strategy, locked, worker),
            job(nodes, "check_then_set", control, worker),
        ]
        for worker in range(_WORKERS)
    ]
    with running(workers) as processes:
        finish(processes)
    periods = journal(locked)
    periods.sort(key=lambda period: period["began"])
    # The clock is the machine's, so periods of different processes can be compared.
    overlaps = sum(later["began"] < earlier["ended"] for earlier, later in pairwise(periods))
    disorder = sum(later["fence"] <= earlier["fence"] for earlier, later in pairwise(periods))
    record_fault(
        f"contention of {_WORKERS} processes x {_TASKS} tasks",
        nodes.strategy,
        runs=_ELEMENTS,
        violations=lost(locked) + overlaps + disorder,
        control=f"look, then take: lost {lost(control)} of {_ELEMENTS} updates",
    )
    assert len(periods) == _ELEMENTS
    assert (lost(locked), overlaps, disorder) == (0, 0, 0)
    assert lost(control) > 0
