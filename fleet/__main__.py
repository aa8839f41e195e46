"""The command `fleet`: an update of the template over all repositories; a patched core tested."""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from fleet.inventory import InvalidInventory, located, read_inventory
from fleet.output import progress, summary
from fleet.processes import CommandFailed
from fleet.rehearsal import Plan, rehearse
from fleet.report import write_report
from fleet.repository import NotAService
from fleet.results import GOOD, without_credentials
from fleet.status import status
from fleet.verify import verify
from fleet.workers import visit

SCHEMA = 1
INTERRUPTED = 130
EPILOG = """Exit code: 0 if all are current or clean, 1 if not, 2 wrong usage, 130 interrupted.
Without --push nothing leaves this machine: updates happen in clones that are thrown away."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser("fleet", description=__doc__, epilog=EPILOG)
    commands = found.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("file", type=Path, help="repository URLs or paths, one a line")
    common.add_argument("--to", metavar="REF", help="a Git ref of the template")
    common.add_argument("--template", metavar="URL", help="where the template is (now)")
    common.add_argument("--json", action="store_true", help="print JSON instead of lines")
    common.add_argument("--jobs", type=positive, default=os.cpu_count() or 2, metavar="N")
    trying = argparse.ArgumentParser(add_help=False)
    trying.add_argument("--check", metavar="CMD", help="an updated service has to pass this")
    trying.add_argument("--check-seconds", type=positive, default=900, metavar="S")
    trying.add_argument("--trust", action="store_true", help="run migrations of the template")
    commands.add_parser("status", parents=[common], help="versions, without trying an update")
    update = commands.add_parser("update", parents=[common, trying], help="rehearse the update")
    update.add_argument("--push", action="store_true", help="push a branch to each repository")
    checked = commands.add_parser(
        "verify", help="run the template's tests of app/core on a service"
    )
    checked.add_argument("service", type=Path, help="its folder, taken as it is")
    checked.add_argument(
        "tests", nargs="*", help="paths such as tests/core/locks (all of its parts)"
    )
    checked.add_argument("--template", metavar="URL", help="where the template is (now)")
    checked.add_argument("--fast", action="store_true", help="leave out the slow tests")
    report = commands.add_parser("report", parents=[common, trying], help="rehearse, write HTML")
    report.add_argument("--output", type=Path, default=Path("fleet.html"), metavar="FILE")
    return found


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def unusable(output: Path) -> str:
    """Why no page can be written there: better said before the rehearsal than after it."""
    if output.is_dir():
        return f"{output}: it is a folder; --output names the page"
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        return f"{output}: it cannot be written"
    return ""


def main() -> int:
    given = parser().parse_args()
    if given.command == "verify":
        return verified(given)
    try:
        repositories = read_inventory(given.file)
    except InvalidInventory as error:
        print(f"fleet: {error}", file=sys.stderr)
        return 2
    template = located(given.template, Path.cwd()) if given.template else None
    problem = ""
    if given.command == "report":
        problem = unusable(given.output)
    elif given.command == "update" and given.push and template and Path(template).is_absolute():
        problem = f"{template}: services would record a path of this machine; --push needs a URL"
    if problem:
        print(f"fleet: {problem}", file=sys.stderr)
        return 2
    plan = Plan(given.to, template)
    if given.command != "status":
        plan = replace(
            plan,
            check=given.check,
            check_seconds=given.check_seconds,
            push=getattr(given, "push", False),
            trust=given.trust,
        )
    work = status if given.command == "status" else rehearse
    try:
        with progress(len(repositories), quiet=given.json) as done:
            results = visit(repositories, work, plan, given.jobs, done)
    except KeyboardInterrupt:
        print("fleet: interrupted", file=sys.stderr)
        return INTERRUPTED
    if given.command == "report":
        write_report(results, given.output)
    if given.json:
        found = {"schema": SCHEMA, "repositories": [result.as_json() for result in results]}
        print(json.dumps(found, indent=2))
    else:
        print(summary(results))
    return 0 if all(result.state in GOOD for result in results) else 1


def verified(given: argparse.Namespace) -> int:
    template = located(given.template, Path.cwd()) if given.template else None
    try:
        return verify(given.service.absolute(), template, given.tests, fast=given.fast)
    except (CommandFailed, NotAService, OSError) as error:
        print(f"fleet: {without_credentials(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fleet: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
