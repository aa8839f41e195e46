"""An experiment still runs: one tiny round, on real servers. The numbers say nothing.

It has no peers; those that have install some ten environments: `python -m benchmarks --quick`.
"""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import results
from benchmarks.__main__ import EXPERIMENTS
from tests.template.answers import ROOT


def benchmarks(*arguments: str) -> "subprocess.CompletedProcess[str]":
    # A process of its own, because it pins itself to a core.
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_experiment_runs(tmp_path: Path) -> None:
    name = "reads"
    done = benchmarks("--quick", name, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr

    result = results.load(tmp_path / "measured" / f"{name}.json")
    assert result.tables
    for table in result.tables:
        assert {len(row) for row in table.rows} <= {len(table.header)}
    ours = [row for table in result.tables for row in table.rows if "ours" in row[0]]
    assert ours, "nothing was measured of ours"
    report = (tmp_path / "RESULTS.md").read_text("utf-8")
    assert f"## {result.title}" in report
    assert "a quick one" in report
    for chart in result.charts:
        ElementTree.parse(tmp_path / "measured" / f"{chart.name}.svg")


def test_every_file_of_an_experiment_is_one() -> None:
    files = {path.stem for path in (ROOT / "benchmarks/experiments").glob("[!_]*.py")}
    assert files == set(EXPERIMENTS)


def test_an_unknown_experiment_is_refused() -> None:
    done = benchmarks("hitz")
    assert done.returncode == 2
    assert "hitz: there are hits," in done.stderr
