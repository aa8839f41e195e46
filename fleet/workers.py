"""Many repositories at once, each worker with a folder and a Copier cache of its own."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from fleet.processes import Processes
from fleet.rehearsal import Plan
from fleet.results import Result
from fleet.versions import Versions

ENDING = (signal.SIGTERM, signal.SIGHUP)
Work = Callable[[str, Plan, Path, Path, Versions, Processes], Result]


def visit(
    repositories: list[str], work: Work, plan: Plan, jobs: int, done: Callable[[Result], None]
) -> list[Result]:
    """The results in the order of `repositories`; `done` is called with each as it ends.

    Raises KeyboardInterrupt on Ctrl-C, SIGTERM and SIGHUP. No process and no folder is left behind.
    """
    caches: SimpleQueue[Path] = SimpleQueue()
    with terminated_as_interrupted(), scratch_folder() as (scratch, processes):
        versions = Versions(processes, scratch / "templates")
        for number in range(jobs):
            caches.put(scratch / f"cache-{number}")

        def one(number: int, repository: str) -> Result:
            cache = caches.get()
            try:
                folder = scratch / f"repository-{number}"
                return work(repository, plan, folder, cache, versions, processes)
            finally:
                caches.put(cache)

        pool = ThreadPoolExecutor(jobs)
        try:
            futures = [pool.submit(one, *numbered) for numbered in enumerate(repositories)]
            for future in as_completed(futures):
                done(future.result())
            return [future.result() for future in futures]
        finally:
            processes.stop()
            pool.shutdown(cancel_futures=True)


@contextmanager
def scratch_folder() -> Iterator[tuple[Path, Processes]]:
    """A folder, and what starts processes: neither outlives us, however we end."""
    scratch = Path(tempfile.mkdtemp(prefix="fleet-"))
    processes = Processes(scratch)
    try:
        yield scratch, processes
    finally:
        processes.close()


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
