"""`copier update` gives what a fresh copy would give, and keeps what a team made of the service."""

import shutil
import subprocess
from pathlib import Path

import pytest
from copier import run_update

from scripts.snapshot import NEWEST, git, release, releases
from tests.template.answers import ROOT, Answers, closed_questions, named_in_exclude, services_own
from tests.template.edits import (
    CONFLICTS,
    CORE,
    TYPICAL,
    Edit,
    append,
    conflicting,
    delete_the_example,
    nothing,
    typical,
    write,
)
from tests.template.history import (
    BETWEEN,
    EARLIER,
    add_earlier_versions,
    commit,
    copy,
    expected_tree,
    start_service,
    update_service,
)
from tests.template.trees import differences, read_tree

VERSIONS = [EARLIER, BETWEEN, *releases(ROOT)]
# Each answer is given up once, and once chosen instead of another one.
CHANGES = [
    pytest.param({name: old}, {name: new}, id=f"{name} {old} to {new}")
    for name, found in closed_questions(asked_only=True).items()
    for old, new in zip(found, [*found[1:], found[0]], strict=True)
]
EDITS = [
    pytest.param(typical, id="edited"),
    pytest.param(delete_the_example, id="example deleted"),
    pytest.param(nothing, id="untouched"),
]


@pytest.fixture(scope="session")
def history(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with two versions that are older than all releases."""
    older = Path(shutil.copytree(template, tmp_path_factory.mktemp("history") / "repository"))
    add_earlier_versions(older)
    return older


@pytest.fixture
def service(tmp_path: Path) -> Path:
    return tmp_path / "service"


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("edit", EDITS)
def test_an_update_equals_a_fresh_copy_with_the_same_edits(
    history: Path, service: Path, tmp_path: Path, version: str, edit: Edit
) -> None:
    start_service(history, service, version)
    start = read_tree(service)
    edit(service)
    commit(service)

    assert update_service(service) == []

    fresh = copy(history, tmp_path / "fresh", NEWEST, {})
    expected = expected_tree(fresh, start, tmp_path / "expected", edit)
    assert differences(read_tree(service), expected) == []
    if version not in releases(ROOT):
        assert differences(start, expected), "there was nothing to update"


def test_an_edit_that_got_lost_would_be_noticed(varying_template: Path, tmp_path: Path) -> None:
    """The comparison above sees each of the edits."""
    fresh = copy(varying_template, tmp_path / "fresh", NEWEST, {})
    start = read_tree(fresh)
    whole = expected_tree(fresh, start, tmp_path / "whole", typical)
    for left_out in TYPICAL:

        def others(service: Path, left_out: Edit = left_out) -> None:
            for edit in TYPICAL:
                if edit is not left_out:
                    edit(service)

        part = expected_tree(fresh, start, tmp_path / left_out.__name__, others)
        assert differences(whole, part), left_out.__name__


@pytest.mark.slow
def test_an_update_to_a_commit_without_a_release(
    history: Path, service: Path, tmp_path: Path
) -> None:
    """As the team of the template does to try it."""
    template = Path(shutil.copytree(history, tmp_path / "template"))
    write(template / "template/app/core/unreleased.py", '"""New."""\n')
    git("add", "--all", cwd=template)
    git("commit", "--quiet", "--message", "unreleased", cwd=template)
    start_service(template, service, EARLIER)
    start = read_tree(service)
    typical(service)
    commit(service)

    assert update_service(service, ref="HEAD") == []

    fresh = copy(template, tmp_path / "fresh", "HEAD", {})
    expected = expected_tree(fresh, start, tmp_path / "expected", typical)
    assert "app/core/unreleased.py" in expected
    assert differences(read_tree(service), expected) == []


@pytest.mark.slow
@pytest.mark.parametrize("attributes", [True, False], ids=["", "control: without .gitattributes"])
def test_an_update_changes_no_line_ends(
    wiring_template: Path,
    service: Path,
    tmp_path: Path,
    attributes: bool,
) -> None:
    """Where Git is set to convert them, as on Windows."""

    def converting_git(*arguments: str) -> str:
        command = ["git", "-c", "core.autocrlf=true", *arguments]
        return subprocess.run(command, cwd=service, stdout=subprocess.PIPE, text=True).stdout

    template = Path(shutil.copytree(wiring_template, tmp_path / "template"))
    if attributes:
        for folder in ("", "template"):
            shutil.copy(ROOT / folder / ".gitattributes", template / folder)
    release(template, "v999.1.0")
    start_service(template, service, "v999.1.0")
    git("config", "core.autocrlf", "true", cwd=service)
    (service / "README.md").unlink()
    converting_git("checkout", "README.md")  # as everybody gets it who clones the service
    assert (b"\r\n" in (service / "README.md").read_bytes()) != attributes
    write(template / "template/added.txt", "new\n")
    release(template, "v999.2.0")

    assert update_service(service) == []

    if attributes:
        changed = converting_git("status", "--porcelain").splitlines()
        assert changed == [" M .copier-answers.yml", "?? added.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_changing_an_answer_equals_generating_with_it(
    varying_template: Path, service: Path, tmp_path: Path, before: Answers, after: Answers
) -> None:
    start_service(varying_template, service, NEWEST, **before)
    start = read_tree(service)
    typical(service)
    commit(service)

    assert update_service(service, NEWEST, **after) == []

    fresh = copy(varying_template, tmp_path / "fresh", NEWEST, after)
    own = [path for path in differences(start, read_tree(fresh)) if path.startswith(services_own())]
    assert own == [], "these would need to change with the answer, but an update leaves them alone"
    expected = expected_tree(fresh, start, tmp_path / "expected", typical)
    assert differences(read_tree(service), expected) == []


@pytest.mark.slow
def test_edits_of_the_same_lines_conflict_visibly(history: Path, service: Path) -> None:
    start_service(history, service, EARLIER)
    typical(service)
    conflicting(service)
    commit(service)

    assert update_service(service) == sorted(CONFLICTS)

    for path, ours in CONFLICTS.items():
        text = (service / path).read_text("utf-8")
        assert "<<<<<<< before updating" in text, path
        assert ours in text, path
    # What lay elsewhere in the same files was merged.
    assert "# Ours.\ndef create_" in (service / CORE).read_text("utf-8")
    assert "Ask the payments team." in (service / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_a_file_that_the_team_deleted_stays_deleted(history: Path, service: Path) -> None:
    """Also where the template changed it meanwhile."""
    start_service(history, service, EARLIER)
    deleted = [service / CORE, service / "README.md"]
    for path in deleted:
        path.unlink()
    commit(service)
    assert update_service(service) == []
    assert not any(path.exists() for path in deleted)


MOVE = """
_migrations:
  - version: v2.0.0
    when: "{{ _stage == 'before' }}"
    command: [git, mv, app/old.py, app/new.py]
"""


@pytest.mark.parametrize("migration", [MOVE, ""], ids=["with a migration", "without"])
def test_a_moved_file_takes_edits_along_only_by_a_migration(
    tmp_path: Path, service: Path, migration: str
) -> None:
    """The recipe of CONTRIBUTING.md, and why it is one: without it the edit is lost unseen."""
    template = tmp_path / "template"
    answers = template / "template/{{ _copier_conf.answers_file }}.jinja"
    write(answers, "{{ _copier_answers | to_nice_yaml }}")
    write(template / "copier.yml", "_subdirectory: template\n")
    write(template / "template/app/old.py", "one = 1\n")
    git("init", "--quiet", cwd=template)
    release(template, "v1.0.0")
    start_service(template, service, "v1.0.0")
    append(service / "app/old.py", "ours = 2\n")
    commit(service)
    (template / "template/app/old.py").rename(template / "template/app/new.py")
    append(template / "copier.yml", migration)
    release(template, "v2.0.0")

    run_update(service, defaults=True, overwrite=True, quiet=True, unsafe=bool(migration))

    assert not (service / "app/old.py").exists()
    kept = "ours = 2" in (service / "app/new.py").read_text("utf-8")
    assert kept == bool(migration)
    if migration:
        assert git("ls-files", "--unmerged", cwd=service)


def test_an_example_file_is_the_services_own_or_belongs_to_an_answer(history: Path) -> None:
    """Any other one would come back to those who deleted the example.

    But for what installs it: that is there from the start, and what was deleted stays deleted.
    """
    named = [*named_in_exclude(), "app/items/install.py.jinja"]
    for folder in ("app/items", "tests/items"):
        files = [path.name for path in (history / "template" / folder).glob("*.py*")]
        assert files
        for name in files:
            assert f"{folder}/{name}" in named
