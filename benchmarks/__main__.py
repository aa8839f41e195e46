"""Measure, and write RESULTS.md.

python -m benchmarks                 everything, in about thirteen minutes
python -m benchmarks hits outage     these experiments; the others keep their last results
python -m benchmarks --quick         one tiny round of each, to see that all still runs
python -m benchmarks --report        only write the report again
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# The servers for development, which start those that are measured, are the template's.
sys.path.insert(0, str(Path(__file__).parents[1] / "template"))

from benchmarks import cores, machine, report, results
from benchmarks.environments import ROOT, EnvironmentFailed, Environments
from benchmarks.servers import ApplicationFailed, Applications
from benchmarks.session import Session
from benchmarks.workers import WorkerFailed
from devservers.guard import ServerUnavailable

EXPERIMENTS = (
    "hits",
    "reads",
    "concurrency",
    "growth",
    "stampede",
    "expiry",
    "outage",
    "database",
    "locks",
    "memory",
)
KEPT = ROOT / ".benchmarks"


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    # A closed terminal or a `kill` has to stop what was started, too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    console = Console(stderr=True)
    output: Path = options.output
    try:
        if not options.report:
            _measure(options.experiments or EXPERIMENTS, output, options.quick, console)
        report.write(output, EXPERIMENTS)
    except (ApplicationFailed, EnvironmentFailed, ServerUnavailable, WorkerFailed) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(f"{output / 'RESULTS.md'} is written", markup=False)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiments", nargs="*", metavar="experiment", help=", ".join(EXPERIMENTS))
    parser.add_argument("--quick", action="store_true", help="one tiny round of each")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument(
        "--output", type=Path, help="folder of RESULTS.md (benchmarks/, with --quick another one)"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.experiments) - set(EXPERIMENTS):
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(EXPERIMENTS)}")
    if options.output is None:
        options.output = KEPT / "quick" if options.quick else Path(__file__).parent
    return options


def _measure(names: tuple[str, ...], output: Path, quick: bool, console: Console) -> None:
    cores.use_the_other_one()
    columns = (
        TextColumn("{task.fields[experiment]:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}"),
    )
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        # It draws when it is told to, between two measurements.
        Progress(*columns, console=console, auto_refresh=False) as progress,
    ):
        environments = Environments(Path(folder) if quick else KEPT, shared=quick)
        for name in names:
            task = progress.add_task("", experiment=name, what="environments", total=None)
            progress.refresh()
            session = Session(
                environments=environments,
                applications=Applications(environments, Path(folder, name)),
                folder=Path(folder, name),
                progress=progress,
                task=task,
                quick=quick,
            )
            measure: Callable[[Session], results.Result] = import_module(
                f"benchmarks.experiments.{name}"
            ).measure
            started = time.perf_counter()
            result = measure(session)
            took = time.perf_counter() - started
            progress.update(task, what=f"{took:.0f} s")
            progress.refresh()
            result = replace(
                result,
                quick=quick,
                seconds=round(took, 1),
                environment=machine.described(environments, session.used),
            )
            results.save(result, output / report.FOLDER / f"{name}.json")


def _end(number: int, frame: FrameType | None) -> None:
    # As an exception, so that what was started is stopped.
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
