import sys
from pathlib import Path

import pytest

from benchmarks import regression
from devservers.valkey import EmbeddedValkey
from tests.template.answers import ROOT


@pytest.mark.slow
def test_every_operation_is_measured() -> None:
    with EmbeddedValkey() as server:
        found = regression.measure(ROOT / "template", server.url)
    assert len(found) == 16
    assert all(microseconds > 0 for microseconds in found.values())


def test_what_was_slower_before_is_faster_now(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(template: Path, url: str) -> dict[str, float]:
        return {"hit": 10.0 if template == ROOT / "template" else 15.0}

    monkeypatch.setattr(regression, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["regression", "HEAD", "--rounds", "1"])
    regression.main()
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["microseconds", "of", "CPU", "HEAD", "now", "faster"]
    assert line.split() == ["hit", "15.0", "10.0", "1.50"]


def test_a_commit_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["regression", "no-such-commit"])
    with pytest.raises(SystemExit, match="no-such-commit"):
        regression.main()
