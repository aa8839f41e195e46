"""What an update would do to one repository; nothing leaves the clone unless it is to be pushed."""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fleet.processes import CommandFailed, Processes
from fleet.repository import GIT_SECONDS, Clone, NotAService
from fleet.results import Result, State, without_credentials
from fleet.versions import UnknownVersion, Versions

PACKAGES = Path(__file__).parents[1]
COPIER_SECONDS = 600.0


@dataclass(frozen=True)
class Plan:
    to: str | None = None  # a Git ref of the template; None: its newest release
    template: str | None = None  # where the template is now; None: where the service says
    check: str | None = None  # a shell command that an updated service has to pass
    check_seconds: float = 900.0
    push: bool = False
    trust: bool = False  # run what a migration of the template runs


def rehearse(
    repository: str, plan: Plan, folder: Path, cache: Path, versions: Versions, processes: Processes
) -> Result:
    """Never raises for what is wrong with a repository: it says so in the result."""
    result = Result(repository)
    started = time.monotonic()
    clone = Clone(folder / "service", processes)
    try:
        result.dirty = is_dirty(repository, processes)
        clone.take(repository)
        try_update(clone, plan, result, folder, cache, versions)
        if plan.push and result.files:
            push(clone, result)
    except (CommandFailed, NotAService, UnknownVersion, OSError) as error:
        result.state, result.cause = State.FAILED, without_credentials(str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        result.seconds = round(time.monotonic() - started, 2)
    return result


def try_update(
    clone: Clone, plan: Plan, result: Result, folder: Path, cache: Path, versions: Versions
) -> None:
    result.old = result.new = clone.version()
    if plan.template:
        clone.move_template(plan.template)
    # An update to the version that is there changes nothing, and takes seconds.
    behind = plan.to or versions.is_behind(result.old, str(clone.answers()["_src_path"]))
    result.drift = renew(clone, plan, folder, cache, update=bool(behind))
    if not behind:
        result.state = State.CURRENT
        return
    result.conflicts = clone.unmerged()
    result.files = clone.changed()
    result.new = version_in(clone)
    if not result.files:
        result.state = State.CURRENT
    elif result.conflicts:
        result.state = State.CONFLICT
    else:
        result.state = State.CLEAN
        check(clone, plan, result)


def version_in(clone: Clone) -> str:
    """The answers file itself may be in conflict, and is no YAML then."""
    try:
        return clone.version()
    except NotAService:
        return "unknown"


def check(clone: Clone, plan: Plan, result: Result) -> None:
    if not plan.check:
        return
    command = ["sh", "-c", plan.check]
    clone.commit("for the check")  # as the check would find it in a checkout
    try:
        clone.processes.run(command, cwd=clone.service, timeout=plan.check_seconds)
    except CommandFailed as error:
        result.state = State.BROKEN
        result.cause = f"check: {str(error).removeprefix('sh -c: ').removeprefix('sh -c ')}"
    clone.git("reset", "--quiet", "--hard")
    clone.git("clean", "--quiet", "-ffdx")  # what the check wrote is not pushed
    clone.git("reset", "--quiet", "--soft", "HEAD~1")


def push(clone: Clone, result: Result) -> None:
    """A branch for this version, unless there is one: somebody may be at work on it."""
    folder = clone.service.relative_to(clone.folder).as_posix()
    # Several services of a repository have a branch each.
    result.branch = f"template/{result.new}" + (f"-{folder.replace('/', '-')}" * (folder != "."))
    if clone.remote_has(result.branch):
        return
    subject = f"Update the template to {result.new}"
    if result.state != State.CLEAN:
        subject = f"Draft: {subject}"
    body = [*(f"conflict: {path}" for path in result.conflicts), result.cause]
    clone.commit("\n".join([subject, "", *body]))
    # Only ever creates: a branch that came to be in the meantime is not overwritten.
    clone.git("push", "--quiet", "origin", f"HEAD:refs/heads/{result.branch}")
    result.pushed = True


def is_dirty(repository: str, processes: Processes) -> bool:
    """Of a path with a working tree: changes that a clone does not have."""
    folder = Path(repository.partition("#")[0])
    if "://" in repository or not (folder / ".git").exists():
        return False
    command = ["git", "--no-optional-locks", "status", "--porcelain"]
    return bool(processes.run(command, cwd=folder, timeout=GIT_SECONDS))


def renew(clone: Clone, plan: Plan, folder: Path, cache: Path, *, update: bool) -> list[str]:
    """The drift before the update. Copier gets a process, a cache and a folder of its own."""
    scratch = folder / "scratch"
    scratch.mkdir()
    given = {
        "service": str(clone.service),
        "scratch": str(folder / "pristine"),
        "update": update,
        "to": plan.to,
        "trust": plan.trust,
    }
    # -P: not from the clone, where a module may have the name of one that is needed.
    command = [sys.executable, "-P", "-m", "fleet.copier_worker", json.dumps(given)]
    environment = {
        "PYTHONPATH": str(PACKAGES),
        "COPIER_CACHE_DIR": str(cache),
        "TMPDIR": str(scratch),
    }
    try:
        output = clone.processes.run(
            command, cwd=clone.service, timeout=COPIER_SECONDS, environment=environment
        )
    except CommandFailed as error:
        cause = str(error).partition("ERROR ")[2] or str(error)
        raise CommandFailed(f"copier {cause}") from None
    found: list[str] = json.loads(output.splitlines()[-1])  # a migration may print as well
    return found
