"""How tests wait, what they show when they fail, and how the machine is kept busy under them."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from devservers.waiting import slowness, until, wait_until

ROOT = Path(__file__).parents[3]

FAILING = """
from devservers.valkey import EmbeddedValkey

def test_that_fails():
    with EmbeddedValkey():
        raise AssertionError
"""


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "template")])
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_what_comes_is_waited_for_and_what_does_not_is_told() -> None:
    asked = iter([False, False, True, False, True])
    wait_until(lambda: next(asked))
    await until(lambda: next(asked))

    async def never() -> bool:
        return False

    with pytest.raises(TimeoutError, match=r"the mail did not come within 0\.02 s"):
        await until(never, what="the mail", seconds=0.02)
    with pytest.raises(TimeoutError, match="the mail"):
        wait_until(lambda: False, what="the mail", seconds=0.02)


def test_the_slowness_is_measured_once() -> None:
    assert slowness() >= 1
    assert os.environ["DEVSERVERS_SLOWNESS"] == str(slowness())


def test_a_failure_shows_the_machine_and_the_servers(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FAILING)
    plugins = ("-p", "devservers.evidence", "-p", "no:cacheprovider", "-o", "timeout=7")
    ended = run(tmp_path, "-m", "pytest", *plugins, DEVSERVERS_SLOWNESS="3")
    assert "slowness 3" in ended.stdout
    assert "timeout: 21.0s" in ended.stdout  # a slow machine has longer
    assert "The end of the log of Valkey on port" in ended.stdout
    assert "Ready to accept connections" in ended.stdout


@pytest.mark.slow
def test_the_machine_is_busy_while_a_command_runs(tmp_path: Path) -> None:
    children = "import os, psutil; print(len(psutil.Process(os.getppid()).children()))"
    ended = run(ROOT, "-m", "scripts.busy", "--times", "2", "--", sys.executable, "-c", children)
    lines = ended.stdout.split("\n")
    assert [int(line) > 5 * (os.cpu_count() or 1) for line in lines if line.isdigit()] == [True] * 2
    assert ended.returncode == 0
    failing = run(ROOT, "-m", "scripts.busy", "--times", "2", "--", "false")
    assert (failing.returncode, "; 2 failed" in failing.stdout) == (2, True)
    mine = psutil.Process().children(recursive=True)
    assert not [child for child in mine if "scripts.busy" in child.cmdline()]
