"""RESULTS.md and its pictures, from the results that are kept."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import charts, results
from benchmarks.results import Result, Table

FOLDER = "measured"
"""Beside RESULTS.md: what was measured, as numbers and as pictures."""

_INTRODUCTION = """\
# Measured beside everyone else

`make bench` writes this page: it generates a service, adds the routes that are measured, and runs
it beside what else one could use. Every peer has an environment of its own and is set up as its
documentation recommends; one worker of uvicorn has a core for itself, load generator and Redis
share another one.

Figures are ratios of what was measured side by side, in rounds that took turns: the median of the
rounds, and in parentheses what the middle half of them lay between. Compare the rows of a table,
not two machines.
"""


def write(output: Path, experiments: Sequence[str]) -> None:
    """Write the report of those experiments that have a result, in this order."""
    files = [output / FOLDER / f"{name}.json" for name in experiments]
    found = [results.load(file) for file in files if file.exists()]
    for result in found:
        for chart in result.charts:
            charts.draw(chart, output / FOLDER / f"{chart.name}.svg")
    text = "\n".join([_INTRODUCTION, *map(_section, found)])
    (output / "RESULTS.md").write_text(text, "utf-8")


def _section(result: Result) -> str:
    lines = [f"## {result.title}", "", result.question, ""]
    for chart in result.charts:
        lines += [f"![{chart.title}]({FOLDER}/{chart.name}.svg)", ""]
    for table in result.tables:
        lines += _table(table)
    rounds = f"{result.rounds} rounds" if result.rounds > 1 else "one round"
    quick = ", a quick one that says nothing but that it ran" if result.quick else ""
    lines += [f"<details><summary>{rounds}{quick}, {result.seconds:.0f} s</summary>", ""]
    lines += [f"* {name}: {value}" for name, value in result.environment.items()]
    lines += ["", "</details>", ""]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    lines = [f"**{table.title}**", "", _row(table.header)]
    lines.append(_row(["---", *("---:" for _ in table.header[1:])]))
    lines += [_row(row) for row in table.rows]
    lines.append("")
    if table.note:
        lines += [table.note, ""]
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
