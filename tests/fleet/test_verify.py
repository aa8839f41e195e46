"""The template's own tests of `app/core`, run on a service whose team has patched it."""

from pathlib import Path

import pytest
from copier import run_copy

from scripts.snapshot import snapshot
from tests.fleet.conftest import Fleet
from tests.template.answers import ROOT
from tests.template.edits import append, replace
from tests.template.trees import read_tree

STRENGTH = "app/core/secret_strength.py"
TESTS = "tests/core/settings"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshot(ROOT, tmp_path_factory.mktemp("verify") / "template")


@pytest.fixture
def patched(template: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "service"
    run_copy(str(template), folder, {"database": "sqlite"}, defaults=True, quiet=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True], ids=["harmless", "broken"])
def test_a_patch_is_judged_by_the_tests_of_the_version_it_is_based_on(
    patched: Path, fleet: Fleet, broken: bool
) -> None:
    if broken:
        append(patched / STRENGTH, "\nraise RuntimeError('patched by the team')\n")
    else:
        append(patched / STRENGTH, "\n# By the team.\n")
    before = read_tree(patched)

    done = fleet("verify", patched, TESTS, "--fast")

    assert done.code == broken, done.output + done.errors
    assert f"  {STRENGTH}\n" in done.output
    assert ("patched by the team" in done.output) == broken
    assert " passed" in done.output or broken
    assert read_tree(patched) == before


@pytest.mark.slow
def test_what_nobody_has_patched_needs_no_tests(patched: Path, fleet: Fleet) -> None:
    done = fleet("verify", patched)
    assert (done.code, done.errors) == (0, "")
    assert "there is nothing to verify" in done.output


@pytest.mark.slow
def test_a_version_that_the_template_does_not_have_is_named(patched: Path, fleet: Fleet) -> None:
    replace(patched / ".copier-answers.yml", "_commit: v999.0.0", "_commit: v0.0.7")
    done = fleet("verify", patched)
    assert done.code == 2
    assert "v0.0.7" in done.errors


def test_what_is_no_service_is_refused(tmp_path: Path, fleet: Fleet) -> None:
    done = fleet("verify", tmp_path)
    assert done.code == 2
    assert "not from this template" in done.errors
