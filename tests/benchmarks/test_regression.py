import sys

import pytest

from benchmarks import regression


@pytest.mark.slow
def test_a_commit_is_as_fast_as_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["regression", "HEAD", "--rounds", "1"])
    regression.main()
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["microseconds", "of", "CPU", "HEAD", "now", "faster"]
    assert len(lines) == 16
    for line in lines:
        before, now, faster = map(float, line.split()[-3:])
        assert before > 0
        assert faster == pytest.approx(before / now, abs=0.05)


def test_a_commit_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["regression", "no-such-commit"])
    with pytest.raises(SystemExit, match="no-such-commit"):
        regression.main()
