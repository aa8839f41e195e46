"""`copier update` gives what a fresh copy would give, and keeps what a team made of the service."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from copier import run_copy

from scripts.snapshot import NEWEST, git, releases
from tests.template.answers import CONFIG, ROOT, Answers, closed_questions
from tests.template.history import (
    EARLIER,
    OWN,
    add_earlier_release,
    commit,
    delete_example,
    expected_tree,
    replace,
    start_service,
    typical_edits,
    update_service,
    write,
)
from tests.template.trees import differences, read_tree

RELEASES = [EARLIER, *releases(ROOT)]
CHANGES = [
    ({name: old}, {name: new})
    for name, found in closed_questions(asked_only=True).items()
    for old in found
    for new in found
    if old != new
]


EDITS = [
    pytest.param(typical_edits, id="edited"),
    pytest.param(delete_example, id="example deleted", marks=pytest.mark.slow),
    pytest.param(lambda _: None, id="untouched", marks=pytest.mark.slow),
]


@pytest.fixture(scope="session")
def history(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with one more release, older than all."""
    older = Path(shutil.copytree(template, tmp_path_factory.mktemp("history") / "repository"))
    add_earlier_release(older)
    return older


@pytest.fixture
def service(tmp_path: Path) -> Path:
    return tmp_path / "service"


def fresh_copy(template: Path, folder: Path, ref: str, **answers: str | bool) -> Path:
    run_copy(str(template), folder, answers, vcs_ref=ref, defaults=True, quiet=True)
    return folder


@pytest.mark.parametrize("tag", RELEASES)
@pytest.mark.parametrize("edit", EDITS)
def test_an_update_equals_a_fresh_copy_with_the_same_edits(
    history: Path, service: Path, tmp_path: Path, tag: str, edit: Callable[[Path], None]
) -> None:
    start_service(history, service, tag)
    start = read_tree(service)
    edit(service)
    commit(service)

    assert update_service(service) == []

    fresh = fresh_copy(history, tmp_path / "fresh", NEWEST)
    expected = expected_tree(fresh, start, tmp_path / "expected", edit)
    assert differences(read_tree(service), expected) == []
    if tag == EARLIER:
        assert differences(start, expected), "there was nothing to update"


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
    typical_edits(service)
    commit(service)

    assert update_service(service, ref="HEAD") == []

    fresh = fresh_copy(template, tmp_path / "fresh", "HEAD")
    expected = expected_tree(fresh, start, tmp_path / "expected", typical_edits)
    assert "app/core/unreleased.py" in expected
    assert differences(read_tree(service), expected) == []


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), CHANGES, ids=map(str, CHANGES))
def test_changing_an_answer_equals_generating_with_it(
    history: Path, service: Path, tmp_path: Path, before: Answers, after: Answers
) -> None:
    start_service(history, service, NEWEST, **before)
    start = read_tree(service)
    typical_edits(service)
    commit(service)

    assert update_service(service, NEWEST, **after) == []

    fresh = fresh_copy(history, tmp_path / "fresh", NEWEST, **after)
    own = [path for path in differences(start, read_tree(fresh)) if path.startswith(OWN)]
    assert own == [], "these would need to change with the answer, but an update leaves them alone"
    expected = expected_tree(fresh, start, tmp_path / "expected", typical_edits)
    assert differences(read_tree(service), expected) == []


def test_edits_of_the_same_line_conflict_visibly(history: Path, service: Path) -> None:
    start_service(history, service, EARLIER)
    path = service / "app/core/redis/clients.py"
    replace(path, " (earlier)", " (ours)")
    typical_edits(service)
    commit(service)

    assert update_service(service) == ["app/core/redis/clients.py"]

    text = path.read_text("utf-8")
    assert "<<<<<<<" in text
    assert " (ours)" in text


def test_an_example_file_is_the_services_own_or_belongs_to_an_answer(history: Path) -> None:
    """Any other one would come back to those who deleted the example."""
    [block] = [entry for entry in CONFIG["_exclude"] if "_copier_operation" in entry]
    for folder in ("app/items", "tests/items"):
        files = [path.name for path in (history / "template" / folder).glob("*.py*")]
        assert files
        for name in files:
            assert f"/{folder}/{name}" in block


def test_own_folders_are_those_that_updates_leave_alone() -> None:
    """So that the tests above speak of the same folders as copier.yml."""
    [block] = [entry for entry in CONFIG["_exclude"] if "_copier_operation" in entry]
    kept = block.partition("_copier_operation == 'update'")[2].splitlines()
    assert [line.strip() for line in kept if line.startswith("/")] == [f"/{name}" for name in OWN]
