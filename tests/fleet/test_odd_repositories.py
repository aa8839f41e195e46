"""Templates and repositories that are not as one expects: each is told for what it is."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from copier import run_copy

from devservers.waiting import wait_until
from fleet.results import Result, plain, printable
from scripts.snapshot import git, release
from tests.fleet.conftest import Fleet, command, inventory
from tests.template.answers import ROOT
from tests.template.edits import append, write
from tests.template.history import commit

QUESTIONS = """
_subdirectory: template
service_name: {type: str, default: orders}
database: {type: str, default: postgres}
"""
ANSWERS = ".copier-answers.yml"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """As little as makes a template of this kind; one commit, no release."""
    folder = tmp_path / "template"
    write(folder / "copier.yml", QUESTIONS)
    answers = "{{ _copier_answers | to_nice_yaml }}"
    write(folder / "template/{{ _copier_conf.answers_file }}.jinja", answers)
    write(folder / "template/file.txt", "one\n")
    git("init", "--quiet", "--initial-branch=main", cwd=folder)
    commit(folder)
    return folder


def changed(template: Path, tag: str = "") -> str:
    """Commit something there; returns the commit."""
    append(template / "template/file.txt", f"{tag or 'more'}\n")
    if tag:
        release(template, tag)
    else:
        commit(template)
    return git("rev-parse", "--short", "HEAD", cwd=template).strip()


def made_from(template: Path, folder: Path, ref: str = "HEAD") -> Path:
    run_copy(str(template), folder, {}, vcs_ref=ref, defaults=True, quiet=True)
    git("init", "--quiet", "--initial-branch=main", cwd=folder)
    commit(folder)
    return folder


def record(service: Path, **recorded: str) -> None:
    file = service / ANSWERS
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text("utf-8")) | recorded), "utf-8")
    commit(service)


def asked(fleet: Fleet, tmp_path: Path, *arguments: str | Path) -> dict[str, Any]:
    """What `fleet` finds out about one repository."""
    verb, repository, *options = arguments
    [result] = fleet(
        verb, inventory(tmp_path / "fleet.txt", [str(repository)]), *options, "--json"
    ).repositories()
    return result


@pytest.mark.slow
def test_a_template_that_cannot_be_reached_is_a_failure(
    fleet: Fleet, template: Path, tmp_path: Path
) -> None:
    service = made_from(template, tmp_path / "service")
    template.rename(tmp_path / "elsewhere")
    for verb in ("status", "update"):
        found = asked(fleet, tmp_path, verb, service)
        assert (found["state"], "does not exist" in found["cause"]) == ("failed", True), found


@pytest.mark.slow
def test_versions_are_compared_by_their_commits(
    fleet: Fleet, template: Path, tmp_path: Path
) -> None:
    """Before the first release, after it, between two, and where a tag was set too far back."""
    first = git("rev-parse", "--short", "HEAD", cwd=template).strip()
    service = made_from(template, tmp_path / "service")

    def states() -> list[tuple[str, str]]:
        found = [asked(fleet, tmp_path, verb, service) for verb in ("status", "update")]
        return [(one["state"], one["new"]) for one in found]

    assert states() == [("current", first)] * 2
    second = changed(template)
    assert states() == [("behind", second), ("clean", second)]
    git("tag", "v1.0.0", first, cwd=template)
    assert states() == [("current", first)] * 2  # it is what the service was made from
    changed(template, "v1.1.0")
    assert states() == [("behind", "v1.1.0"), ("clean", "v1.1.0")]
    later = changed(template)
    record(service, _commit=f"v1.1.0-1-g{later}")
    assert states() == [("current", f"v1.1.0-1-g{later}")] * 2  # Copier would refuse to go back
    record(service, _commit="v7.0.0")
    for verb in ("status", "update"):
        found = asked(fleet, tmp_path, verb, service)
        assert found["state"] == "failed"
        assert "has no version v7.0.0, which the service records" in found["cause"]


@pytest.mark.slow
def test_services_in_folders_of_one_repository(
    fleet: Fleet, template: Path, tmp_path: Path
) -> None:
    release(template, "v1.0.0")
    whole = tmp_path / "whole"
    for name in ("services/orders", "services/billing"):
        run_copy(str(template), whole / name, {}, defaults=True, quiet=True)
    git("init", "--quiet", "--initial-branch=main", cwd=whole)
    commit(whole)
    bare = tmp_path / "whole.git"
    git("clone", "--quiet", "--bare", whole, bare, cwd=tmp_path)
    changed(template, "v1.1.0")

    found = asked(
        fleet, tmp_path, "update", f"{bare}#services/orders", "--push", "--check", "ls f*"
    )
    assert (found["state"], found["pushed"]) == ("clean", True), found
    assert found["files"] == ["services/orders/.copier-answers.yml", "services/orders/file.txt"]
    assert found["branch"] == "template/v1.1.0-services-orders"
    assert asked(fleet, tmp_path, "status", bare)["cause"].startswith("not from this template")


@pytest.mark.slow
def test_the_servers_reason_for_a_refused_push_is_told(
    fleet: Fleet, template: Path, tmp_path: Path
) -> None:
    release(template, "v1.0.0")
    bare = tmp_path / "service.git"
    made_from(template, tmp_path / "service", "v1.0.0")
    git("clone", "--quiet", "--bare", tmp_path / "service", bare, cwd=tmp_path)
    hook = bare / "hooks/pre-receive"
    write(hook, "#!/bin/sh\necho 'branches need a ticket number'\nexit 1\n")
    hook.chmod(0o755)
    changed(template, "v1.1.0")
    found = asked(fleet, tmp_path, "update", bare, "--push")
    assert found["state"] == "failed"
    assert "remote: branches need a ticket number" in found["cause"]


@pytest.mark.slow
def test_nothing_is_written_through_links_that_lead_elsewhere(
    fleet: Fleet, template: Path, tmp_path: Path
) -> None:
    release(template, "v1.0.0")
    service = made_from(template, tmp_path / "service", "v1.0.0")
    inside = made_from(template, tmp_path / "inside", "v1.0.0")
    (inside / "link.txt").symlink_to("file.txt")
    commit(inside)
    precious = Path(shutil.copy(service / ANSWERS, tmp_path / "precious"))
    (service / ANSWERS).unlink()
    (service / ANSWERS).symlink_to(precious)
    commit(service)
    before = precious.read_text("utf-8")
    moved = Path(shutil.copytree(template, tmp_path / "moved"))
    changed(moved, "v1.1.0")

    found = asked(fleet, tmp_path, "update", service, "--template", moved)
    assert found["state"] == "failed"
    assert f"{ANSWERS} is a link that leads out of the repository" in found["cause"]
    assert precious.read_text("utf-8") == before
    found = asked(fleet, tmp_path, "update", inside, "--template", moved)
    assert found["state"] == "clean", found


def test_what_a_repository_says_reaches_no_terminal_as_it_is() -> None:
    hostile = "v1\x1b]0;gotcha\x07\u202e\udcff"
    assert plain(hostile) == r"v1\x1b]0;gotcha\x07\u202e\udcff"
    result = printable(Result("x", old=hostile, conflicts=[hostile], cause=hostile))
    assert {result.old, *result.conflicts, result.cause} == {plain(hostile)}


@pytest.mark.slow
def test_a_killed_fleet_leaves_no_process_and_no_folder(template: Path, tmp_path: Path) -> None:
    release(template, "v1.0.0")
    service = made_from(template, tmp_path / "service", "v1.0.0")
    changed(template, "v1.1.0")
    scratch, started = tmp_path / "scratch", tmp_path / "started"
    scratch.mkdir()
    file = inventory(tmp_path / "fleet.txt", [str(service)])
    running = subprocess.Popen(
        command("update", file, "--check", f"echo > {started}; sleep 300 & wait"),
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(scratch)},
    )
    family = psutil.Process(running.pid)
    wait_until(
        lambda: started.exists() and "sleep" in map(name_of, family.children(recursive=True)),
        what="the check",
    )
    children = family.children(recursive=True)
    running.send_signal(signal.SIGKILL)
    running.wait()
    wait_until(lambda: not any(map(runs, children)), what="the end of its processes")
    wait_until(lambda: not list(scratch.iterdir()), what="the end of its folder")


def name_of(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
