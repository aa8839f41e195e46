"""Copier's part, run as a process of its own: in threads, and with a shared cache, Copier fails.

python -m fleet.renewal pristine|update '{"service": ..., "to": ..., "destination": ...}'
"""

import json
import os
import sys
from pathlib import Path

import yaml

ANSWERS = ".copier-answers.yml"


def pristine(service: Path, destination: Path) -> None:
    """What the template wrote at the recorded version, with the recorded answers."""
    from copier import run_copy

    recorded = yaml.safe_load((service / ANSWERS).read_text("utf-8"))
    answers = {name: value for name, value in recorded.items() if not name.startswith("_")}
    source, commit = recorded["_src_path"], recorded["_commit"]
    run_copy(source, destination, answers, vcs_ref=commit, defaults=True, quiet=True)


def update(service: Path, to: str | None) -> None:
    from copier import run_update

    run_update(service, vcs_ref=to, defaults=True, skip_answered=True, overwrite=True, quiet=True)


def main() -> None:
    action, given = sys.argv[1], json.loads(sys.argv[2])
    service = Path(given["service"])
    try:
        if action == "pristine":
            pristine(service, Path(given["destination"]))
        else:
            update(service, given["to"])
    except Exception as error:
        # Whatever a template or its answers make Copier raise: one line has to name it.
        words = " ".join(str(error).split())
        sys.stderr.write(f"ERROR {type(error).__name__}: {words}\n")
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
