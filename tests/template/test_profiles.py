"""Generated services, each in the environment that it asks for: style, types and their own tests.

They take turns in one folder. `uv sync` makes its environment exactly what each asks for, and what
they have in common is installed, compiled and read by mypy once.
"""

import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path

import pytest

from devservers.containers import is_docker_there
from devservers.mysql import EmbeddedMySQL
from scripts.running import service_environment
from tests.core.database.backends import installed
from tests.template.answers import (
    ROOT,
    Answers,
    closed_questions,
    covering_profiles,
    features,
    label,
)
from tests.template.conftest import Render

PROFILES = covering_profiles()


KEPT = (".venv", ".mypy_cache")
CHECKS = ("ruff check", "ruff format --check", "mypy")
# What a few answers decide about is tested once for each set of them; what no answer changes, once.
# Everything else runs in every profile.
DECIDED_BY: dict[str, tuple[str, ...]] = {
    "tests/access": ("lock_strategy", "sessions", "events"),
    "tests/accounts": ("database", "access"),
    "tests/benchmarks": ("database",),
    "tests/items/test_events.py": ("database", "access"),
    "tests/items/test_items.py": ("database", "serializer", "access"),
    "tests/items/test_refresh.py": ("database",),
    "tests/items/test_restock.py": ("lock_strategy", "access"),
    "tests/observability": (),
    "tests/test_browser.py": (),
    "tests/test_commands.py": ("access",),
    "tests/test_database.py": ("database",),
    "tests/test_database_outage.py": ("database",),
    "tests/test_fastpath.py": (),
    "tests/test_redis_outage.py": ("database", "access"),
    "tests/test_migrations.py": ("database", "sessions"),
    "tests/test_pool.py": (),
    "tests/test_replica.py": ("database",),
    "tests/test_shutdown.py": (),
}


def seen_before(answers: Answers) -> Iterator[str]:
    """The tests of this profile that an earlier one has run with the same answers."""
    earlier = PROFILES[: PROFILES.index(answers)]
    for path, questions in DECIDED_BY.items():
        if any(all(answers[q] == other[q] for q in questions) for other in earlier):
            yield path


def run(service: Path, command: str) -> str:
    """Run a command as the service's README says; the end of its output if it failed."""
    done = subprocess.run(
        ["uv", *command.split()],
        cwd=service,
        # Not whatever this machine happens to have; DEVSERVERS=docker is for one that has images.
        env={"DEVSERVERS": "embedded"} | service_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return f"{command}:\n{done.stdout[-8000:]}" if done.returncode else ""


def mysql_is_there() -> None:
    """Skip on a machine that has neither MySQL nor Docker, unless it is CI."""
    if not is_docker_there():
        installed(EmbeddedMySQL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which they take turns."""
    return tmp_path_factory.mktemp("profiles") / "service"


def move_in(service: Path, place: Path) -> None:
    """Nothing of the one before is left but what `KEPT` names."""
    for path in place.iterdir() if place.exists() else ():
        if path.is_dir() and path.name not in KEPT:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    # With the time of now: mypy takes a file of the same size and time for the one that it knows.
    shutil.copytree(service, place, copy_function=shutil.copy, dirs_exist_ok=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("answers", PROFILES, ids=label)
def test_a_service_passes_its_own_checks(render: Render, place: Path, answers: Answers) -> None:
    if answers["database"] == "mysql":
        mysql_is_there()
    move_in(render(**answers), place)
    assert run(place, "sync --quiet") == ""
    tests = " ".join(("pytest -q", *(f"--ignore {path}" for path in seen_before(answers))))
    failures = [failure for check in (*CHECKS, tests) if (failure := run(place, f"run {check}"))]
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_service_may_delete_its_fast_paths(render: Render, place: Path) -> None:
    """The tests are those that the fast paths have a part in; what else there is knows no other."""
    move_in(render(**PROFILES[0]), place)
    shutil.rmtree(place / "app/core/fastpath")
    assert run(place, "sync --quiet") == ""
    tests = " ".join(
        (
            "pytest -q tests/items/test_items.py tests/observability/test_requests.py",
            "tests/test_fastpath.py tests/test_pool.py",
        )
    )
    failures = [failure for check in (*CHECKS, tests) if (failure := run(place, f"run {check}"))]
    assert not failures, "\n".join(failures)
    assert not (place / "app/core/fastpath").exists()


def test_what_is_decided_by_a_few_answers_exists() -> None:
    assert [path for path in DECIDED_BY if not (ROOT / "template" / path).exists()] == []


def test_the_profiles_hold_every_pair_of_answers() -> None:
    """Counted here in another way than the profiles are chosen."""
    closed = closed_questions(asked_only=True)
    for (one, left), (other, right) in combinations(closed.items(), 2):
        for pair in product(left, right):
            held = [(profile[one], profile[other]) for profile in PROFILES]
            assert pair in held, f"{one}, {other}: {pair}"


def test_the_profiles_hold_every_feature_no_feature_and_all_but_each() -> None:
    every = set(features())
    assert every
    held = [{name for name in every if profile[name]} for profile in PROFILES]
    for expected in (every, set(), *(every - {name} for name in every)):
        assert expected in held


def test_the_first_profile_is_the_defaults() -> None:
    assert label(PROFILES[0]) == "defaults"
