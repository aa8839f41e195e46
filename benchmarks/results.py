"""What an experiment found, and where it is kept until the report is written."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    x: float | str
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars have the name of a bar as their x, lines a number."""

    name: str
    """Of its file."""
    title: str
    kind: Literal["bars", "lines"]
    x: str
    y: str
    series: dict[str, tuple[Point, ...]]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    title: str
    question: str
    """What the experiment is for, in a sentence or two."""
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...] = ()
    rounds: int = 1
    quick: bool = False
    seconds: float = 0
    environment: dict[str, str] = field(default_factory=dict)
    """Versions and cores, as they were in this run."""


def save(result: Result, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=1), "utf-8")


def load(path: Path) -> Result:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    tables = [
        Table(
            table["title"], tuple(table["header"]), tuple(map(tuple, table["rows"])), table["note"]
        )
        for table in found.pop("tables")
    ]
    charts = []
    for chart in found.pop("charts"):
        series = {
            name: tuple(Point(**point) for point in points)
            for name, points in chart.pop("series").items()
        }
        charts.append(Chart(series=series, **chart))
    return Result(tables=tuple(tables), charts=tuple(charts), **found)
