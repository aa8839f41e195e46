"""Processes that own embedded servers, for tests that end them in every way."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from devservers.waiting import wait_until

_TEMPLATE = Path(__file__).parents[3] / "template"


@dataclass
class Owner:
    """A process that runs a script, the processes it has started, and the folders they use."""

    process: subprocess.Popen[str]
    family: list[psutil.Process]
    folders: list[Path]

    def wait_until_nothing_is_left(self) -> float:
        """The seconds it took until the family and the folders were gone.

        Raises:
            TimeoutError: something is left.
        """

        def nothing_is_left() -> bool:
            folders = any(folder.exists() for folder in self.folders)
            return not folders and not any(map(is_alive, self.family))

        started = time.monotonic()
        wait_until(nothing_is_left, what="the end of the servers and their folders")
        return time.monotonic() - started


@contextmanager
def owner(script: str) -> Iterator[Owner]:
    """Run a script that prints the folders of its servers, and `ready` once they run."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=_TEMPLATE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    family: list[psutil.Process] = []
    try:
        if process.stdout is None:
            raise RuntimeError("there is a pipe")
        folders = []
        while (line := process.stdout.readline().strip()) != "ready":
            if not line:
                raise RuntimeError("the owner of the servers has failed")
            folders.append(Path(line))
        family = psutil.Process(process.pid).children(recursive=True)
        yield Owner(process, family, folders)
    finally:
        process.kill()
        process.wait()
        for left in filter(is_alive, family):
            left.kill()
        if process.stdout is not None:
            process.stdout.close()


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; the first process of a container may never bury its dead."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
