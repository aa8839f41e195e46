"""Two engines: Cookiecutter gives the bytes that Copier gives, and a service that updates."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cookiecutter.exceptions import FailedHookException
from copier import run_copy, run_update
from pytest_cookies.plugin import Cookies

from scripts.snapshot import git, release
from tests.template.answers import ROOT, Answers, closed_questions, covering_profiles, label
from tests.template.conftest import Render
from tests.template.cookiecutter_questions import cookiecutter_json
from tests.template.trees import differences, read_tree


def test_both_ask_the_same_questions() -> None:
    assert (ROOT / "cookiecutter.json").read_text("utf-8") == cookiecutter_json()


def test_both_write_the_same_bytes(cookies: Cookies, template: Path, render: Render) -> None:
    baked = cookies.bake(template=str(template))
    assert baked.exception is None
    assert differences(read_tree(baked.project_path), read_tree(render())) == []


@pytest.mark.slow
@pytest.mark.parametrize("answers", covering_profiles()[::3], ids=label)
def test_both_make_the_same_of_answers(
    cookies: Cookies, varying_template: Path, tmp_path: Path, answers: Answers
) -> None:
    baked = cookies.bake(extra_context=answers, template=str(varying_template))
    assert baked.exception is None
    run_copy(str(varying_template), tmp_path / "copied", answers, defaults=True, quiet=True)
    assert differences(read_tree(baked.project_path), read_tree(tmp_path / "copied")) == []


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(
            {"service_name": "null", "description": "It's 100 % ${X}, naïve 日本 🎉 <b>"},
            id="unusual",
            marks=pytest.mark.slow,
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
    """The real command line, without the configuration of whoever runs the tests."""
    return subprocess.run(
        [python, "-m", "cookiecutter", "--no-input", *arguments],
        cwd=cwd,
        env=os.environ | {"PWD": str(cwd), "COOKIECUTTER_CONFIG": os.devnull} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefix", "checkout", "version"),
    [
        pytest.param("", [], "v999.1.0", id="newest release"),
        pytest.param("git+", ["--checkout", "v999.0.0"], "v999.0.0", id="a release"),
    ],
)
def test_a_remote_template_gives_a_release_with_either_engine(
    wiring_template: Path, tmp_path: Path, prefix: str, checkout: list[str], version: str
) -> None:
    """Cookiecutter takes the newest commit instead: the hook sees to it that Copier does not."""
    remote = tmp_path / "git" / "template"  # Cookiecutter looks for "git" in an address
    git("clone", "--quiet", wiring_template, remote, cwd=tmp_path)
    for name, publish in (("released.txt", True), ("unreleased.txt", False)):
        (remote / "template" / name).write_text("new\n")
        release(remote, "v999.1.0" if publish else "not-a-version")
    cache = {"COPIER_CACHE_DIR": str(tmp_path / "cache"), "HOME": str(tmp_path)}

    done = cookiecutter(
        *checkout, "-o", tmp_path / "out", f"{prefix}{remote.as_uri()}", cwd=tmp_path, **cache
    )

    assert done.returncode == 0, done.stderr
    source = f"git+{remote.as_uri()}"
    run_copy(source, tmp_path / "copied", {}, vcs_ref=version, defaults=True, quiet=True)
    assert f"_commit: {version}\n" in (tmp_path / "copied/.copier-answers.yml").read_text()
    assert differences(read_tree(tmp_path / "out/orders"), read_tree(tmp_path / "copied")) == []


@pytest.mark.slow
def test_the_command_lines_agree_on_answers_that_are_no_defaults(
    template: Path, tmp_path: Path
) -> None:
    """And the service can be updated by the one from what the other wrote."""
    answers = {name: found[-1] for name, found in closed_questions(asked_only=True).items()}
    words = [f"{name}={value}" for name, value in answers.items()]
    repository = Path(shutil.copytree(template, tmp_path / "template"))
    baked = cookiecutter("-o", tmp_path / "out", repository, *words, cwd=tmp_path)
    assert baked.returncode == 0, baked.stderr
    data = [word for pair in words for word in ("--data", pair)]
    copier("copy", "--defaults", *data, repository, tmp_path / "copied", cwd=tmp_path)
    service = tmp_path / "out/orders"
    assert differences(read_tree(service), read_tree(tmp_path / "copied")) == []

    git("init", "--quiet", cwd=service)
    release(service, "start")
    (repository / "template" / "added.txt").write_text("from the template\n")
    release(repository, "v999.1.0")
    copier("update", "--defaults", cwd=service)
    assert (service / "added.txt").exists()
    kept = yaml.safe_load((service / ".copier-answers.yml").read_text("utf-8"))
    assert answers.items() <= kept.items()


def copier(*arguments: str | Path, cwd: Path) -> None:
    subprocess.run([sys.executable, "-m", "copier", *arguments], cwd=cwd, check=True)


@pytest.mark.slow
def test_pytest_cookies_sees_a_refused_answer(cookies: Cookies, template: Path) -> None:
    baked = cookies.bake(extra_context={"service_name": "Orders"}, template=str(template))
    assert baked.exit_code != 0
    assert isinstance(baked.exception, FailedHookException)
    assert baked.project_path is None


REFUSED = [
    pytest.param("service_name=Orders", "Use a-z, 0-9 and single hyphens"),
    pytest.param("__port=80", "Use a number", marks=pytest.mark.slow),
    pytest.param('description=say "hi"', "Use no double quotes", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("answer", "message"), REFUSED)
def test_an_invalid_answer_gives_its_message_and_leaves_nothing(
    template: Path, tmp_path: Path, answer: str, message: str
) -> None:
    done = cookiecutter(template, answer, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param("sesions=true", "There is no question sesions.", id="misspelt"),
        pytest.param("port=9000", "There is no question port.", id="without its underscores"),
        pytest.param("service_name=orders", "", id="control: as it is called"),
    ],
)
def test_an_answer_to_no_question_is_refused(
    wiring_template: Path, tmp_path: Path, answer: str, message: str
) -> None:
    done = cookiecutter(wiring_template, "-o", "a=b", answer, cwd=tmp_path)
    assert message in done.stderr
    assert done.returncode == (1 if message else 0), done.stderr
    assert (tmp_path / "a=b/orders").exists() != bool(message)


@pytest.fixture
def owned(wiring_template: Path, tmp_path: Path) -> Path:
    """A service whose team has written into files of the template."""
    assert cookiecutter(wiring_template, cwd=tmp_path).returncode == 0
    for path in ("README.md", "app/main.py", "own.txt"):
        (tmp_path / "orders" / path).write_text("the team's own\n")
    return tmp_path / "orders"


@pytest.mark.slow
@pytest.mark.parametrize("skip", ["--skip-if-file-exists", "-fs"])
def test_files_that_exist_are_kept_when_asked_for(
    wiring_template: Path, owned: Path, skip: str
) -> None:
    (owned / "compose.yaml").unlink()
    before = read_tree(owned)
    done = cookiecutter(
        "--overwrite-if-exists", skip, wiring_template, "database=sqlite", cwd=owned.parent
    )
    assert done.returncode == 0, done.stderr
    after = read_tree(owned)
    assert before.items() <= after.items()
    assert "compose.yaml" in after
    assert "NOT-GENERATED.md" not in after


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["service_name=orders", "__port=80", "sesions=true"])
def test_a_refused_answer_changes_nothing_that_exists(
    wiring_template: Path, owned: Path, answer: str
) -> None:
    before = read_tree(owned)
    done = cookiecutter("--overwrite-if-exists", wiring_template, answer, cwd=owned.parent)
    refused = answer != "service_name=orders"  # the control
    assert done.returncode == (1 if refused else 0), done.stderr
    assert (read_tree(owned) == before) == refused


def test_without_hooks_the_user_reads_why_there_is_no_service(
    template: Path, tmp_path: Path
) -> None:
    done = cookiecutter("--accept-hooks", "no", template, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_tree(tmp_path).keys() == {"orders/NOT-GENERATED.md"}
    text = (tmp_path / "orders/NOT-GENERATED.md").read_text()
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
def test_uv_refuses_an_invalid_answer_in_the_same_way(
    bare_cookiecutter: str, template: Path, tmp_path: Path
) -> None:
    done = cookiecutter(template, "service_name=Orders", cwd=tmp_path, python=bare_cookiecutter)
    assert done.returncode != 0
    assert "Use a-z, 0-9 and single hyphens" in done.stderr
    assert list(tmp_path.iterdir()) == []


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
