"""The scheduled workflow that proposes an update as a pull request.

Its own shell runs, with real Git, a bare remote and real Copier. Only `gh` is a program that writes
down how it was called, and `uvx copier@...` is the Copier that is installed here.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.snapshot import IDENTITY, git, release
from tests.template.answers import CONFIG, ROOT
from tests.template.edits import replace, write
from tests.template.history import commit, start_service

WORKFLOW = ROOT / "template/.github/workflows/copier-update.yml"
UPGRADING = """# Upgrading

## 1.10

Ten by hand.

## 1.9

Nine by hand.

## 1.8

Eight by hand.

## 1.7

Seven by hand.
"""
GH = """#!/bin/sh
[ "$1" = pr ] || exit 0
[ ! -e "{refuses}" ] || exit 1
printf '%s\\n' "$@" >> "{calls}"
while [ $# -gt 0 ]; do [ "$1" != --body-file ] || cat "$2" > "{body}"; shift; done
"""
UVX = """#!/bin/sh
[ "$1" = copier@{version} ] || exit 64
shift
exec {python} -m copier "$@"
"""


@dataclass(frozen=True)
class Proposal:
    """One service, its remote and the template it came from."""

    folder: Path

    @property
    def template(self) -> Path:
        return self.folder / "template"

    @property
    def remote(self) -> Path:
        return self.folder / "remote.git"

    @property
    def body(self) -> str:
        return (self.folder / "body.md").read_text("utf-8")

    @property
    def calls(self) -> list[str]:
        """The words of every pull request that was opened, one after the other."""
        file = self.folder / "calls"
        return file.read_text("utf-8").splitlines() if file.exists() else []

    def branches(self) -> list[str]:
        return git("for-each-ref", "--format=%(refname:short)", cwd=self.remote).split()

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """The step, on a checkout of the default branch as the action makes it: one commit deep."""
        runner = self.folder / f"runner-{len(list(self.folder.glob('runner-*')))}"
        temporary = runner / "temporary"
        temporary.mkdir(parents=True)
        git("clone", "--quiet", "--depth=1", self.remote.as_uri(), "checkout", cwd=runner)
        (runner / "step.sh").write_text(step()["run"], "utf-8")
        variables = {
            "BASE": "main",
            "GITHUB_STEP_SUMMARY": str(runner / "summary.md"),
            "MAY_CHANGE_WORKFLOWS": "true",
            "RUNNER_TEMP": str(temporary),
            "HOME": str(runner),
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        return subprocess.run(
            ["bash", "-e", runner / "step.sh"],  # as GitHub runs it
            cwd=runner / "checkout",
            env=os.environ | IDENTITY | variables | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def step() -> dict[str, Any]:
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    found: dict[str, Any] = workflow["jobs"]["update"]["steps"][-1]
    return found


def program(path: Path, text: str) -> None:
    write(path, text)
    path.chmod(0o755)


@pytest.fixture
def proposal(wiring_template: Path, tmp_path: Path) -> Proposal:
    """A service of version 1.8.1, of a template that is at 1.10.0 and has notes for both."""
    made = Proposal(tmp_path)
    git("clone", "--quiet", wiring_template, made.template, cwd=tmp_path)
    git("tag", "--delete", "v999.0.0", cwd=made.template)
    write(made.template / "template/renewed.txt", "earlier\n\nmiddle\n\nlast\n")
    release(made.template, "v1.8.1")
    replace(made.template / "template/renewed.txt", "earlier", "later")
    write(made.template / "UPGRADING.md", UPGRADING)
    release(made.template, "v1.10.0")

    service = start_service(made.template, tmp_path / "service", "v1.8.1", github=True)
    git("branch", "--move", "--force", "main", cwd=service)
    git("clone", "--quiet", "--bare", service, made.remote, cwd=tmp_path)
    git("remote", "add", "origin", made.remote, cwd=service)
    words = {"calls": tmp_path / "calls", "body": tmp_path / "body.md"}
    program(tmp_path / "bin/gh", GH.format(refuses=tmp_path / "refuses", **words))
    version = CONFIG["_min_copier_version"]
    program(tmp_path / "bin/uvx", UVX.format(version=version, python=sys.executable))
    return made


def work(proposal: Proposal, path: str, old: str, new: str) -> None:
    """What the team does to the service meanwhile."""
    service = proposal.folder / "service"
    replace(service / path, old, new)
    commit(service)
    git("push", "--quiet", "origin", "main", cwd=service)


@pytest.mark.slow
def test_an_update_is_proposed_with_the_notes_it_crosses(proposal: Proposal) -> None:
    work(proposal, "renewed.txt", "last", "last, ours")
    main = git("rev-parse", "main", cwd=proposal.remote)

    done = proposal.run()

    assert done.returncode == 0, done.stderr
    branch = "template/v1.10.0"
    assert git("show", f"{branch}:renewed.txt", cwd=proposal.remote) == (
        "later\n\nmiddle\n\nlast, ours\n"
    )
    assert git("rev-parse", "main", cwd=proposal.remote) == main
    assert proposal.calls[:6] == ["pr", "create", "--base", "main", "--head", branch]
    assert "--draft" not in proposal.calls
    assert "has a new version: v1.10.0." in proposal.body
    assert "Ten by hand." in proposal.body
    assert "Nine by hand." in proposal.body
    assert "Eight" not in proposal.body, "it was done before"
    assert "Seven" not in proposal.body
    assert "Resolve" not in proposal.body


@pytest.mark.slow
def test_conflicts_are_listed_in_a_draft(proposal: Proposal) -> None:
    work(proposal, "renewed.txt", "earlier", "ours")

    done = proposal.run()

    assert done.returncode == 0, done.stderr
    assert "--draft" in proposal.calls
    assert "- [ ] `renewed.txt`" in proposal.body
    merged = git("show", "template/v1.10.0:renewed.txt", cwd=proposal.remote)
    assert "<<<<<<< before updating" in merged
    assert "ours" in merged
    assert "later" in merged


@pytest.mark.slow
def test_a_branch_that_is_there_is_left_alone(proposal: Proposal) -> None:
    assert proposal.run().returncode == 0
    before = git("for-each-ref", cwd=proposal.remote)
    calls = proposal.calls

    done = proposal.run()

    assert done.returncode == 0, done.stderr
    assert "is proposed already, on template/v1.10.0" in done.stdout
    assert git("for-each-ref", cwd=proposal.remote) == before
    assert proposal.calls == calls


@pytest.mark.slow
def test_a_pull_request_that_is_refused_is_tried_again(proposal: Proposal) -> None:
    """As long as the settings of the repository do not let workflows open one."""
    refuses = proposal.folder / "refuses"
    refuses.touch()
    assert proposal.run().returncode == 1
    assert proposal.branches() == ["main"]

    refuses.unlink()
    assert proposal.run().returncode == 0
    assert proposal.branches() == ["main", "template/v1.10.0"]


@pytest.mark.slow
def test_nothing_to_update(proposal: Proposal) -> None:
    git("tag", "--delete", "v1.10.0", cwd=proposal.template)
    done = proposal.run()
    assert done.returncode == 0, done.stderr
    assert "Nothing to update." in done.stdout
    assert proposal.branches() == ["main"]
    assert proposal.calls == []


@pytest.mark.slow
def test_a_changed_workflow_needs_a_token_that_may_change_it(proposal: Proposal) -> None:
    write(proposal.template / "template/.github/workflows/new.yml", "name: new\n")
    release(proposal.template, "v1.11.0")
    done = proposal.run(MAY_CHANGE_WORKFLOWS="false")
    assert done.returncode == 1
    assert "set the secret TEMPLATE_TOKEN" in done.stdout
    assert proposal.branches() == ["main"]
    assert proposal.run().returncode == 0
    assert proposal.branches() == ["main", "template/v1.11.0"]


@pytest.mark.slow
def test_a_template_without_notes_or_out_of_reach_for_them(proposal: Proposal) -> None:
    (proposal.template / "UPGRADING.md").unlink()
    release(proposal.template, "v1.12.0")
    done = proposal.run()
    assert done.returncode == 0, done.stderr
    assert "By hand" not in proposal.body


@pytest.mark.slow
def test_copier_fails(proposal: Proposal) -> None:
    program(proposal.folder / "bin/uvx", "#!/bin/sh\nexit 3\n")
    done = proposal.run()
    assert done.returncode == 3
    assert proposal.branches() == ["main"]


def test_the_credentials_come_from_the_environment_not_from_the_script() -> None:
    """An expression in the script would be an injection; those in `env` are values."""
    assert "${{" not in step()["run"]
    assert step()["env"].keys() == {"BASE", "GH_TOKEN", "MAY_CHANGE_WORKFLOWS"}
