"""Copier's part, run as a process of its own: in threads, and with a shared cache, Copier fails.

python -m fleet.copier_worker '{"service": ..., "scratch": ..., "update": ..., ...}'
prints the files that had drifted before the update, as JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pathspec import GitIgnoreSpec

if TYPE_CHECKING:
    from copier._main import Worker

ANSWERS = ".copier-answers.yml"


def drift(service: Path, scratch: Path, *, trust: bool) -> list[str]:
    """Files that differ from what the recorded version wrote, but for those updates leave alone."""
    from copier import run_copy

    recorded = yaml.safe_load((service / ANSWERS).read_text("utf-8"))
    answers = {name: value for name, value in recorded.items() if not name.startswith("_")}
    source, commit = recorded["_src_path"], recorded["_commit"]
    worker = run_copy(
        source, scratch, answers, vcs_ref=commit, defaults=True, quiet=True, unsafe=trust
    )
    own = GitIgnoreSpec.from_lines([*services_own(worker, answers), f"/{ANSWERS}"])
    return sorted(
        path
        for path in own.match_tree_files(scratch, negate=True)
        if differs(scratch / path, service / path)
    )


def differs(file: Path, other: Path) -> bool:
    return not other.is_file() or file.read_bytes() != other.read_bytes()


def services_own(worker: "Worker", answers: dict[str, object]) -> list[str]:
    """The patterns of the template's `_exclude` that are only there when it updates."""

    def excluded(operation: str) -> list[str]:
        variables = {**answers, "_copier_operation": operation}
        return [
            line.strip()
            for pattern in worker.template.exclude
            for line in worker.jinja_env.from_string(pattern).render(variables).splitlines()
        ]

    always = set(excluded("copy"))
    return [pattern for pattern in excluded("update") if pattern not in always]


def update(service: Path, to: str | None, *, trust: bool) -> None:
    from copier import run_update

    run_update(
        service,
        vcs_ref=to,
        defaults=True,
        skip_answered=True,
        overwrite=True,
        quiet=True,
        unsafe=trust,
    )


def ask_git_once(service: Path) -> None:
    """Copier asks Git for each file whether it minds the executable bit: 170 processes for a copy.

    It does, in every clone on Linux and macOS; then Copier has nothing to do about it.
    """
    from copier import _main

    command = ["git", "config", "--type=bool", "--get", "core.fileMode"]
    answer = subprocess.run(command, cwd=service, stdout=subprocess.PIPE, check=False).stdout
    if answer.strip() != b"false" and hasattr(_main, "is_git_available"):
        _main.is_git_available = lambda: False  # without it, Copier asks for each


def main() -> None:
    given = json.loads(sys.argv[1])
    service, trust = Path(given["service"]), given["trust"]
    step = "copy of the recorded version"
    try:
        ask_git_once(service)
        drifted = drift(service, Path(given["scratch"]), trust=trust)
        if given["update"]:
            step = "update"
            update(service, given["to"], trust=trust)
    except Exception as error:
        # Whatever a template or its answers make Copier raise: one line has to name it.
        words = " ".join(str(error).split())
        sys.stderr.write(f"ERROR {step}: {type(error).__name__}: {words}\n")
        sys.stderr.flush()
        os._exit(1)
    print(json.dumps(drifted))


if __name__ == "__main__":
    main()
