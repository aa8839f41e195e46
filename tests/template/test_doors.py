"""Two doors: Cookiecutter gives the bytes that Copier gives, and a service that updates."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from copier import run_update
from pytest_cookies.plugin import Cookies

from scripts.snapshot import git, release
from tests.template.answers import ROOT, Answers, covering_profiles, label
from tests.template.conftest import Render
from tests.template.cookiecutter_questions import cookiecutter_json
from tests.template.trees import differences, read_tree


def test_both_ask_the_same_questions() -> None:
    assert (ROOT / "cookiecutter.json").read_text("utf-8") == cookiecutter_json()


PROFILES = [
    pytest.param(answers, id=label(answers), marks=[] if number == 0 else [pytest.mark.slow])
    for number, answers in enumerate(covering_profiles())
]


@pytest.mark.parametrize("answers", PROFILES)
def test_both_write_the_same_bytes(
    cookies: Cookies, template: Path, render: Render, answers: Answers
) -> None:
    baked = cookies.bake(extra_context=answers, template=str(template))
    assert baked.exception is None
    assert differences(read_tree(baked.project_path), read_tree(render(**answers))) == []


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(
            {"service_name": "null", "description": "It's 100 % ${X}, naïve 日本 🎉 <b>"},
            id="unusual",
        ),
        pytest.param(
            {"port": "9000", "python_version": "3.12"}, id="not asked", marks=pytest.mark.slow
        ),
    ],
)
def test_both_take_an_answer_literally(
    cookies: Cookies, template: Path, render: Render, answers: dict[str, str]
) -> None:
    context = {
        f"__{name}" if name in ("port", "python_version") else name: value
        for name, value in answers.items()
    }
    baked = cookies.bake(extra_context=context, template=str(template))
    assert baked.exception is None
    assert differences(read_tree(baked.project_path), read_tree(render(**answers))) == []


@pytest.mark.slow
def test_a_service_from_cookiecutter_updates(
    cookies: Cookies, template: Path, tmp_path: Path
) -> None:
    newer = Path(shutil.copytree(template, tmp_path / "template"))
    service = cookies.bake(template=str(newer)).project_path
    (service / "own.txt").write_text("the service's own\n")
    git("init", "--quiet", cwd=service)
    release(service, "start")

    (newer / "template" / "added.txt").write_text("from the template\n")
    release(newer, "v999.1.0")
    run_update(service, defaults=True, overwrite=True, quiet=True)

    assert (service / "added.txt").read_text() == "from the template\n"
    assert (service / "own.txt").read_text() == "the service's own\n"
    assert "_commit: v999.1.0\n" in (service / ".copier-answers.yml").read_text()


def cookiecutter(
    *arguments: str | Path, cwd: Path, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The real command line, in a home of its own."""
    return subprocess.run(
        [python, "-m", "cookiecutter", "--no-input", *arguments],
        cwd=cwd,
        env=os.environ | {"PWD": str(cwd), "COOKIECUTTER_CONFIG": os.devnull} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


REFUSED = [
    pytest.param("service_name=Orders", "service_name: use lower-case letters"),
    pytest.param("__port=80", "port: use a number", marks=pytest.mark.slow),
    pytest.param('description=say "hi"', "description: write one line", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("answer", "message"), REFUSED)
def test_an_invalid_answer_gives_its_message_and_leaves_nothing(
    template: Path, tmp_path: Path, answer: str, message: str
) -> None:
    done = cookiecutter(template, answer, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_hooks_the_user_reads_why_there_is_no_service(
    template: Path, tmp_path: Path
) -> None:
    done = cookiecutter("--accept-hooks", "no", template, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_tree(tmp_path).keys() == {"orders/README.md"}
    text = (tmp_path / "orders/README.md").read_text()
    assert text.startswith("# orders was not generated\n")


@pytest.mark.slow
def test_a_relative_path_counts_from_where_the_user_is(
    template: Path, render: Render, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    relative = os.path.relpath(template, place)
    done = cookiecutter("--output-dir", tmp_path / "out", relative, cwd=place)
    assert done.returncode == 0, done.stderr
    assert differences(read_tree(tmp_path / "out/orders"), read_tree(render())) == []


@pytest.fixture(scope="session")
def bare_cookiecutter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has Cookiecutter and no Copier."""
    uv = shutil.which("uv")
    assert uv, "uv is not on the PATH; `make test` sees to that"
    venv = tmp_path_factory.mktemp("cookiecutter") / "venv"
    python = str(venv / "bin" / "python")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python, "cookiecutter"]
    subprocess.run([*install, "--constraints", ROOT / "constraints.txt"], check=True)
    return python


@pytest.mark.slow
def test_uv_brings_copier_where_it_is_missing(
    bare_cookiecutter: str, template: Path, render: Render, tmp_path: Path
) -> None:
    done = cookiecutter(template, cwd=tmp_path, python=bare_cookiecutter)
    assert done.returncode == 0, done.stderr
    assert differences(read_tree(tmp_path / "orders"), read_tree(render())) == []


@pytest.mark.slow
def test_without_copier_and_uv_the_message_names_the_remedy(
    bare_cookiecutter: str, template: Path, tmp_path: Path
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    git_program = shutil.which("git")
    assert git_program
    (tools / "git").symlink_to(git_program)
    place = tmp_path / "place"
    place.mkdir()
    done = cookiecutter(template, cwd=place, python=bare_cookiecutter, PATH=str(tools))
    assert done.returncode != 0
    assert "This template needs Copier" in done.stderr
    assert list(place.iterdir()) == []
