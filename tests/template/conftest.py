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
def wiring_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The part of it that answers can change: plain files are copied as they are.

    A tenth of the files, for tests that render often.
    """
    folder = tmp_path_factory.mktemp("wiring") / "folder"
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns(".git"))
    for path in (folder / "template").rglob("*"):
        if path.is_file() and path.suffix != ".jinja":
            path.unlink()
    return snapshot(folder, folder.with_name("repository"))


@pytest.fixture(scope="session")
def render(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Render with these answers (the rest: defaults), once a session: nobody may change it."""
    return renderer(template, tmp_path_factory)


@pytest.fixture(scope="session")
def render_wiring(wiring_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """The same, of the files that answers can change."""
    return renderer(wiring_template, tmp_path_factory)


def renderer(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
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
