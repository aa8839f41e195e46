"""Starts workers in processes of their own, and reads what they saw."""

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import pytest

from devservers.waiting import HANG
from tests.core.locks.worker import Job, work

# What they do takes a minute where ten others compute as well.
_HANG = 10 * HANG
_ROOT = Path(__file__).parents[3]
# Workers are forks of one process that has imported everything once: that takes longer than most of
# what they do.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.core.locks.worker"])

Worker = ForkServerProcess


@contextmanager
def running(workers: Sequence[Sequence[Job]]) -> Iterator[list[Worker]]:
    """One process per list of jobs; none is left when the block ends."""
    _start_server()
    processes = [_CONTEXT.Process(target=work, args=(jobs,)) for jobs in workers]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _start_server() -> None:
    """Start the process that is forked. Before Python 3.13 it does not inherit `sys.path`."""
    path = os.pathsep.join([str(_ROOT), str(_ROOT / "template")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        ensure_running()


def pid_of(process: Worker) -> int:
    assert process.pid is not None
    return process.pid


def signal_to(process: Worker, number: int) -> None:
    os.kill(pid_of(process), number)


def finish(processes: Sequence[Worker]) -> None:
    """Wait for all to end well."""
    for process in processes:
        process.join(_HANG)
        assert process.exitcode == 0


def journal(folder: Path) -> list[dict[str, Any]]:
    """What all workers testified, in no particular order."""
    return [
        json.loads(line)
        for path in folder.glob("journal-*.jsonl")
        for line in path.read_text().splitlines()
    ]
