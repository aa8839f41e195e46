"""Starts workers in processes of their own, and reads what they saw."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from devservers.waiting import HANG
from tests.core.locks.worker import Job

# What they do takes a minute where ten others compute as well.
_HANG = 10 * HANG
_ROOT = Path(__file__).parents[3]


@contextmanager
def running(workers: Sequence[Sequence[Job]]) -> Iterator[list[subprocess.Popen[str]]]:
    """One process per list of jobs; none is left when the block ends."""
    environment = {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'template'}"}
    processes = []
    try:
        for jobs in workers:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.core.locks.worker"],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps([asdict(job) for job in jobs]))
            process.stdin.close()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def finish(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Wait for all to end well."""
    for process in processes:
        assert process.wait(_HANG) == 0


def journal(folder: Path) -> list[dict[str, Any]]:
    """What all workers testified, in no particular order."""
    return [
        json.loads(line)
        for path in folder.glob("journal-*.jsonl")
        for line in path.read_text().splitlines()
    ]
