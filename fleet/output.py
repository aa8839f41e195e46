"""Results for people: a bar on a terminal, a line for each repository everywhere."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fleet.results import Result, State, printable

COLORS = {
    State.CURRENT: "green",
    State.CLEAN: "green",
    State.BEHIND: "yellow",
    State.CONFLICT: "red",
    State.BROKEN: "red",
    State.FAILED: "magenta",
}


@contextmanager
def progress(count: int, *, quiet: bool) -> Iterator[Callable[[Result], None]]:
    """Yields what to call with each result. `quiet`: no lines, for `--json`."""
    out = Console(highlight=False, soft_wrap=True)
    errors = Console(stderr=True)
    if not errors.is_terminal:
        yield (lambda result: None if quiet else print(line(result), flush=True))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=errors, transient=True) as bar:
        task = bar.add_task("repositories", total=count)

        def done(result: Result) -> None:
            if not quiet:
                shown = out if not out.is_terminal else bar.console
                shown.print(line(result), style=COLORS[result.state], markup=False)
            bar.advance(task)

        yield done


def line(result: Result) -> str:
    result = printable(result)
    versions = f"{result.old or '?'} -> {result.new or '?'}"
    parts = [f"{result.state:9}{result.shown}  {versions}  {len(result.files)} files"]
    if result.conflicts:
        parts.append(f"conflicts: {', '.join(result.conflicts)}")
    if result.cause:
        parts.append(result.cause)
    if result.drift:
        parts.append(f"drift: {len(result.drift)}")
    if result.dirty:
        parts.append("uncommitted changes were left out")
    if result.branch:
        parts.append(f"{'pushed' if result.pushed else 'already there'}: {result.branch}")
    return "  ".join(parts)


def summary(results: list[Result]) -> str:
    counts = Counter(result.state for result in results)
    found = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    return f"{len(results)} repositories: {found}"
