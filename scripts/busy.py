"""Run a command while something else keeps the machine busy.

For each core four processes compute and one writes to the disk, at normal priority, until the
command is over: `python -m scripts.busy --times 20 -- pytest tests/core/locks`.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

_COMPUTING = 4
_BLOCK = bytes(1 << 20)
_BLOCKS = 64


def main() -> int:
    """Returns how many of the runs failed."""
    parser = argparse.ArgumentParser(description="Run a command on a busy machine.")
    parser.add_argument("--times", type=int, default=1, help="how often")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    failed = 0
    with busy():
        for run in range(1, arguments.times + 1):
            began = time.monotonic()
            code = subprocess.run(arguments.command, check=False).returncode
            failed += code != 0
            took = f"{time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.0f}"
            print(f"busy run {run} of {arguments.times}: {took}; {failed} failed", flush=True)
    return failed


@contextmanager
def busy() -> Iterator[None]:
    """Keep all cores and the disk busy."""
    cores = os.cpu_count() or 1
    owner = os.getpid()
    load = [
        multiprocessing.Process(target=work, args=(owner,), daemon=True)
        for work in [*[_compute] * _COMPUTING, _write] * cores
    ]
    for process in load:
        process.start()
    try:
        yield
    finally:
        for process in load:
            process.kill()


def _compute(owner: int) -> None:
    while os.getppid() == owner:  # whatever becomes of it
        sum(range(1_000_000))


def _write(owner: int) -> None:
    with tempfile.TemporaryFile() as file:
        while os.getppid() == owner:
            file.seek(0)
            for _ in range(_BLOCKS):
                file.write(_BLOCK)
                file.flush()
                os.fsync(file.fileno())


if __name__ == "__main__":
    sys.exit(main())
