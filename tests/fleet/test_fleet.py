"""Services of every kind: each is classified right, and nothing is pushed unasked."""

from pathlib import Path

import pytest

from scripts.snapshot import git
from tests.fleet.conftest import Fleet, inventory, refs
from tests.fleet.generated import CHECK, NEWEST, Service, wrongly_classified

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_services_are_classified_and_nothing_is_pushed(
    services: list[Service], fleet: Fleet, tmp_path: Path
) -> None:
    names = [service.repository for service in services]
    before = refs(names)

    done = fleet("update", inventory(tmp_path / "fleet.txt", names), "--check", CHECK, "--json")

    assert done.code == 1, done.errors
    assert wrongly_classified(services, done.repositories()) == []
    assert refs(names) == before


def test_status_tells_versions_without_trying(
    services: list[Service], fleet: Fleet, tmp_path: Path
) -> None:
    chosen = [services[0], services[2], services[-1]]
    names = [service.repository for service in chosen]
    done = fleet("status", inventory(tmp_path / "fleet.txt", names), "--json")
    assert done.code == 1
    assert [result["state"] for result in done.repositories()] == ["current", "behind", "failed"]
    assert done.repositories()[1]["new"] == NEWEST


def test_a_push_makes_a_branch_and_a_second_one_changes_nothing(
    services: list[Service], fleet: Fleet, tmp_path: Path
) -> None:
    chosen = [
        next(service for service in services if service.state == state and not service.dirty)
        for state in ("clean", "conflict", "broken", "current", "failed")
    ]
    names = []
    for number, service in enumerate(chosen):
        copy = tmp_path / f"service-{number}.git"
        git("clone", "--quiet", "--mirror", service.repository, copy, cwd=tmp_path)
        names.append(str(copy))
    file = inventory(tmp_path / "fleet.txt", names)
    main = [git("rev-parse", "main", cwd=Path(name)) for name in names]

    first = fleet("update", file, "--check", CHECK, "--push", "--json")
    after_first = refs(names)
    second = fleet("update", file, "--check", CHECK, "--push", "--json")

    assert [result["pushed"] for result in first.repositories()] == [True, True, True, False, False]
    assert not any(result["pushed"] for result in second.repositories())
    assert refs(names) == after_first
    assert [git("rev-parse", "main", cwd=Path(name)) for name in names] == main
    for name, subject in zip(names, ["Update the", *["Draft: Update the"] * 2], strict=False):
        branch = f"template/{NEWEST}"
        log = git("log", "--format=%B", f"main..{branch}", cwd=Path(name))
        assert log.startswith(f"{subject} template to {NEWEST}\n")
        assert git("merge-base", "main", branch, cwd=Path(name)) == git(
            "rev-parse", "main", cwd=Path(name)
        )
    assert "conflict: README.md" in git("log", "-1", "--format=%B", branch, cwd=Path(names[1]))
