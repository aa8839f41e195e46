"""The migrations make what the code expects, from nothing and after the way back."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from devservers.environment import environment


def alembic(variables: dict[str, str], *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *command],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(variables: dict[str, str], *command: str) -> None:
    output, _ = (process := alembic(variables, *command)).communicate(timeout=100)
    assert process.returncode == 0, output


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Servers of the test's own: one that is given belongs to somebody."""
    for name in ("DATABASE_URL", "REDIS_URL", "REDLOCK_URLS"):
        monkeypatch.delenv(name, raising=False)
    with environment() as variables:
        yield variables


@pytest.mark.timeout(180)
def test_they_make_what_the_code_expects_and_undo_it(empty: dict[str, str]) -> None:
    both = [alembic(empty, "upgrade", "heads") for _ in range(2)]  # as two replicas would
    outputs = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(outputs)
    run(empty, "check")
    run(empty, "downgrade", "base")
