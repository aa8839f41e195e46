"""The template as a release, and what it renders to."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from copier import run_copy

from scripts.snapshot import snapshot
from tests.template.answers import ROOT, named_in_exclude
from tests.template.edits import CORE
from tests.template.parts import part_of
from tests.template.quick_copier import quick_copier

Render = Callable[..., Path]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository, with the working tree as its newest release."""
    return snapshot(ROOT, tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture(scope="session")
def wiring(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What answers can change in a file: plain files are copied as they are.

    A tenth of the files, for tests that render often.
    """
    return part_of(template, tmp_path_factory.mktemp("wiring") / "folder", plain=())


@pytest.fixture(scope="session")
def wiring_template(wiring: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as a release."""
    return snapshot(wiring, tmp_path_factory.mktemp("wiring") / "repository")


@pytest.fixture(scope="session")
def varying(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What answers can change, whole files included; and one plain file that teams edit."""
    plain = (*named_in_exclude(), CORE)
    return part_of(template, tmp_path_factory.mktemp("varying") / "folder", plain=plain, pages=True)


@pytest.fixture(scope="session")
def varying_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without pages, as a release: those come and go with answers like other files."""
    folder = tmp_path_factory.mktemp("varying-template")
    part = part_of(template, folder / "folder", plain=(*named_in_exclude(), CORE))
    return snapshot(part, folder / "repository")


@pytest.fixture(scope="session")
def render(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Render with these answers (the rest: defaults), once a session: nobody may change it."""
    return renderer(template, tmp_path_factory)


@pytest.fixture(scope="session")
def render_wiring(wiring: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """The same, of the files that answers can change."""
    return renderer(wiring, tmp_path_factory)


@pytest.fixture(scope="session")
def assemble(template: Path, varying: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """The files of `render`, and but for the place of the template their bytes, in less time.

    Only what answers can change is rendered; the rest is the same for all, and linked.
    """
    files = template / "template"
    constant = [
        path.relative_to(files)
        for path in files.rglob("*")
        if path.is_file() and not (varying / "template" / path.relative_to(files)).exists()
    ]
    varied = renderer(varying, tmp_path_factory)

    def assembled(**answers: str | bool) -> Path:
        folder = varied(**answers)
        for path in constant:
            if not (folder / path).exists():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).hardlink_to(files / path)
        return folder

    return assembled


def renderer(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    done: dict[frozenset[tuple[str, str | bool]], Path] = {}

    def rendered(**answers: str | bool) -> Path:
        key = frozenset(answers.items())
        if key not in done:
            folder = tmp_path_factory.mktemp("render") / "service"
            # No `unsafe`: a stranger has to be able to use the template without trusting it.
            with quick_copier():
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
