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

Work = Callable[[str, Plan, Path, Path, Versions, Processes], Result]


def visit(
    repositories: list[str], work: Work, plan: Plan, jobs: int, done: Callable[[Result], None]
) -> list[Result]:
    """The results in the order of `repositories`; `done` is called with each as it ends.

    Raises KeyboardInterrupt on Ctrl-C and on SIGTERM, with no process and no folder left behind.
    """
    processes = Processes()
    versions = Versions(processes)
    caches: SimpleQueue[Path] = SimpleQueue()
    with terminated_as_interrupted(), tempfile.TemporaryDirectory(prefix="fleet-") as name:
        scratch = Path(name)
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
def terminated_as_interrupted() -> Iterator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
