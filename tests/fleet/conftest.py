"""A template with three releases, and services of it, of every kind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.snapshot import git, snapshot
from tests.fleet.generated import Service, add_releases, of_every_kind
from tests.template.answers import ROOT
from tests.template.parts import part_of


@dataclass(frozen=True)
class Done:
    code: int
    output: str
    errors: str

    def repositories(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.output)["repositories"]
        return found


Fleet = Callable[..., Done]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "fleet", *map(str, arguments)]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """The command line, with a folder for temporary files that has to be empty afterwards."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def run(*arguments: str | Path, **environment: str) -> Done:
        done = subprocess.run(
            command(*arguments),
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(scratch)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert list(scratch.iterdir()) == [], "temporary files were left behind"
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What answers can change, and no more: a fleet of it is updated in a fraction of the time."""
    scratch = tmp_path_factory.mktemp("fleet")
    part = part_of(snapshot(ROOT, scratch / "whole"), scratch / "part", plain=())
    template = snapshot(part, scratch / "repository")
    add_releases(template)
    return template


@pytest.fixture(scope="session")
def services(released: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Service]:
    return of_every_kind(released, tmp_path_factory.mktemp("services"))


def inventory(file: Path, repositories: list[str]) -> Path:
    file.write_text("# generated\n\n" + "".join(f"{name}\n" for name in repositories), "utf-8")
    return file


def refs(repositories: list[str]) -> dict[str, str]:
    """Every branch and tag of those that are on disk."""
    return {
        name: git("for-each-ref", cwd=Path(name)) for name in repositories if Path(name).is_dir()
    }
