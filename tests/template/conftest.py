"""The template as a release, and what it renders to."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from copier import run_copy

from scripts.snapshot import snapshot
from tests.template.answers import ROOT

Render = Callable[..., Path]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository, with the working tree as its newest release."""
    return snapshot(ROOT, tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture(scope="session")
def render(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Render with these answers (the rest: defaults), once a session: nobody may change it."""
    done: dict[frozenset[tuple[str, str | bool]], Path] = {}

    def rendered(**answers: str | bool) -> Path:
        key = frozenset(answers.items())
        if key not in done:
            folder = tmp_path_factory.mktemp("render") / "service"
            # No `unsafe`: a stranger has to be able to use the template without trusting it.
            run_copy(str(template), folder, answers, defaults=True, quiet=True)
            done[key] = folder
        return done[key]

    return rendered


@pytest.fixture
def service(render: Render, tmp_path: Path) -> Render:
    """The same, as a folder of the test's own."""

    def copied(**answers: str | bool) -> Path:
        return Path(shutil.copytree(render(**answers), tmp_path / "service"))

    return copied
