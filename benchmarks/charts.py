"""One picture per chart, with the same bytes for the same numbers."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")  # no display is needed
from matplotlib import pyplot as plt

from benchmarks.figures import shown
from benchmarks.results import Chart, Point

_STYLE: Any = {
    "svg.hashsalt": "benchmarks",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_OURS, _OTHERS = "#0b6e99", "#b9bdc2"


def draw(chart: Chart, path: Path) -> None:
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        if chart.kind == "bars":
            _bars(axes, chart)
        else:
            _lines(axes, chart)
        axes.set_title(chart.title, loc="left", fontweight="bold")
        # Without the date, which would be another one each time.
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _bars(axes: Any, chart: Chart) -> None:
    [points] = chart.series.values()
    names = [str(point.x) for point in points]
    colours = [_OURS if _is_ours(name) else _OTHERS for name in names]
    axes.barh(names, [point.median for point in points], xerr=_errors(points), color=colours)
    for point in points:
        axes.text(point.high, str(point.x), f" {shown(point.median)}", va="center")
    axes.set_xlabel(chart.y)
    if chart.log_y:
        axes.set_xscale("log")


def _lines(axes: Any, chart: Chart) -> None:
    for name, points in chart.series.items():
        axes.errorbar(
            [point.x for point in points],
            [point.median for point in points],
            yerr=_errors(points),
            label=name,
            marker="o",
            markersize=3,
            linewidth=2 if _is_ours(name) else 1,
            linestyle="-" if _is_ours(name) else "--",
        )
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(axis="y", alpha=0.3)


def _errors(points: tuple[Point, ...]) -> list[list[float]]:
    return [
        [point.median - point.low for point in points],
        [point.high - point.median for point in points],
    ]


def _is_ours(name: str) -> bool:
    return name.startswith("ours")
