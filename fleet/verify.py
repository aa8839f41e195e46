"""Run the template's own tests of `app/core` against what a service has made of it.

For a team that patched it all the same: the tests are those of the version that the service
records, on real servers, and not the few that every service carries.
"""

import filecmp
import os
import re
import shutil
import subprocess
from pathlib import Path

from fleet.processes import Processes
from fleet.repository import Clone, NotAService
from fleet.versions import DESCRIBED, url_of
from fleet.workers import scratch_folder, terminated_as_interrupted

CORE = Path("app/core")
TESTS = Path("tests/core")
CLONE_SECONDS = 120.0
INSTALL_SECONDS = 600.0


def verify(service: Path, template: str | None, tests: list[str], *, fast: bool) -> int:
    """Return 0 if all pass or nothing was patched, 1 if a test fails.

    Args:
        service: its folder, taken as it is: nothing has to be committed.
        template: where the template is; None: where the service says.
        tests: paths below `tests/core` of the template; none: all of the parts that it has.
        fast: leave out the slow ones.

    Raises:
        CommandFailed: the template cannot be fetched, or its tools not installed.
        NotAService: the folder was not made from this template.
    """
    with terminated_as_interrupted(), scratch_folder() as (scratch, processes):
        answers = Clone(service, processes).answers()
        checkout = scratch / "template"
        version = str(answers["_commit"])
        fetch(template or str(answers["_src_path"]), version, checkout, processes)
        patched = lay_over(service / CORE, checkout / "template" / CORE)
        if not patched:
            print(f"{CORE} is what {version} wrote: there is nothing to verify")
            return 0
        print(f"Differs from {version}:", *patched, sep="\n  ", flush=True)
        install(checkout, processes)
        return run_tests(checkout, tests or of_parts(service, checkout), fast=fast)


def fetch(template: str, version: str, checkout: Path, processes: Processes) -> None:
    distance = DESCRIBED.search(version)
    commit = distance["commit"] if distance else version
    clone = ["git", "clone", "--quiet", "--no-checkout", "--", url_of(template), str(checkout)]
    processes.run(clone, cwd=Path.home(), timeout=CLONE_SECONDS)
    checking_out = ["git", "-c", "advice.detachedHead=false", "checkout", "--quiet", commit]
    processes.run(checking_out, cwd=checkout, timeout=CLONE_SECONDS)


def lay_over(core: Path, pristine: Path) -> list[str]:
    """Copy what the service has over what the template has; the paths that differ.

    Files that the template has and the service lacks belong to other answers, or to parts that the
    service has deleted: they stay.
    """
    if not core.is_dir():
        raise NotAService(f"{core}: there is no such folder")
    found = []
    for path in sorted(core.rglob("*.py")):
        there = pristine / path.relative_to(core)
        if not there.is_file() or not filecmp.cmp(path, there, shallow=False):
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, there)
            found.append(str(CORE / path.relative_to(core)))
    return found


def install(checkout: Path, processes: Processes) -> None:
    print("Installing the tested versions", flush=True)
    command = ["make", "--silent", ".venv/ready"]
    processes.run(command, cwd=checkout, timeout=INSTALL_SECONDS, environment=clean())


def of_parts(service: Path, checkout: Path) -> list[str]:
    """The folders of tests whose part the service has; what has none of its own is always run."""
    parts = {path.name for path in (checkout / "template" / CORE).iterdir()}
    missing = parts - {path.name for path in (service / CORE).iterdir()}
    return sorted(
        str(path.relative_to(checkout))
        for path in (checkout / TESTS).iterdir()
        if re.search(r"^[a-z]", path.name)
        and path.name not in {"conftest.py", *missing}
        and (path.is_dir() or path.suffix == ".py")
    )


def run_tests(checkout: Path, tests: list[str], *, fast: bool) -> int:
    python = checkout / ".venv/bin/python"
    workers = str((os.cpu_count() or 2) + 2)
    command = [
        str(python),
        "-m",
        "pytest",
        "-n",
        workers,
        "--dist",
        "loadfile",
        f"--basetemp={checkout.parent}/tests",
        *tests,
    ]
    command += ["-m", "not slow"] if fast else []
    done = subprocess.run(command, cwd=checkout, env=os.environ | clean(), check=False)
    return int(done.returncode != 0)


def clean() -> dict[str, str]:
    """An environment in which the template's tools are found first, and ours are not imported."""
    return {"PYTHONPATH": "", "VIRTUAL_ENV": ""}
