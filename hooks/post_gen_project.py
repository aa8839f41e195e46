# /// script
# requires-python = ">=3.11"
# dependencies = ["copier>=9.19.1"]
# ///
"""The Cookiecutter engine: Cookiecutter asks the questions, Copier writes the service.

So both engines write the same bytes, and a service knows its template and its answers whichever
of them made it. Cookiecutter renders this file, runs it in the service's folder, and removes
that folder when it fails, unless it was there before.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

# A JSON text holds no bare quote, so no answer can end this string.
CONTEXT = json.loads(r"""{{ cookiecutter | jsonify }}""")
REMOTE = re.compile(r"gh:|gl:|\w+@|[a-z+]+://")
# What Copier takes for an address by itself; it would look for any other one in a folder.
COPIER_KNOWS = re.compile(r"gh:|gl:|git@|git\+|git://|https://git(hub|lab)\.com/|.*\.git\Z")

# The only file that Cookiecutter itself writes: it says why there is nothing else, if there is not.
PLACEHOLDER = Path("NOT-GENERATED.md")
# Set where this file is run again, by uv, and Cookiecutter's command line is out of sight.
KEEPS_FILES = "KEEPS_FILES"
# Options of Cookiecutter that are followed by a value.
VALUED = {"-c", "--checkout", "--directory", "-o", "--output-dir", "--config-file", "--replay-file"}
VALUED |= {"--debug-file", "--accept-hooks"}


def arguments() -> list[str]:
    """What Cookiecutter was called with; empty if it was called by a program."""
    process = Path("/proc", str(os.getppid()), "cmdline")
    if process.exists():
        words = process.read_bytes().decode(errors="replace").split("\0")
    else:  # not Linux
        command = ["ps", "-ww", "-o", "args=", "-p", str(os.getppid())]
        words = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return words if CONTEXT["_template"] in words else []


def unknown_answers() -> list[str]:
    """Answers on the command line to questions that do not exist: Cookiecutter ignores them."""
    words = arguments()
    given = [
        word.partition("=")[0]
        for before, word in pairwise(words)
        if "=" in word and not word.startswith("-") and before not in VALUED
    ]
    return [name for name in given if name.isidentifier() and name not in CONTEXT]


def keeps_files() -> bool:
    """Whether files that are there already are to stay as they are."""
    return KEEPS_FILES in os.environ or any(
        word == "--skip-if-file-exists" or re.fullmatch("-[a-z]*s[a-z]*", word)
        for word in arguments()
    )


def answers() -> dict[str, str | bool]:
    """What was answered, and what is only recorded (`__port` here is Copier's `port`)."""
    shown = {name: value for name, value in CONTEXT.items() if not name.startswith("_")}
    recorded = {
        name.removeprefix("__"): value
        for name, value in CONTEXT.items()
        if name.startswith("__") and not name.endswith("__")
    }
    return shown | recorded


def template() -> tuple[str, str | None]:
    """Where Copier finds the template, and at which Git ref (None: the latest release)."""
    given, ref = CONTEXT["_template"], CONTEXT["_checkout"]
    if REMOTE.match(given):
        return (given if COPIER_KNOWS.match(given) else f"git+{given}"), ref
    # The hook does not run where the user is; a relative path counts from there.
    for base in (os.environ.get("PWD", ""), CONTEXT["_output_dir"]):
        path = Path(base, given).resolve()
        if (path / "copier.yml").is_file():
            return str(path), ref or "HEAD"  # somebody's own checkout is used as it is
    sys.exit(f"Copier cannot find the template {given!r}: give its absolute path or its URL.")


def write_service() -> None:
    from copier import run_copy
    from copier.errors import CopierError

    source, ref = template()
    try:
        run_copy(
            source,
            Path.cwd(),
            answers(),
            vcs_ref=ref,
            defaults=True,
            overwrite=True,
            quiet=True,
            skip_if_exists=["*"] if keeps_files() else (),
        )
    except (CopierError, ValueError) as error:  # a refused answer is a ValueError
        sys.exit(str(error))
    print(f"The service is in {Path.cwd()}. Its README.md says how to start it.")


def main() -> None:
    PLACEHOLDER.unlink(missing_ok=True)
    if unknown := unknown_answers():
        asked = [name for name in CONTEXT if not name.startswith("_")]
        sys.exit(f"There is no question {', '.join(unknown)}. There are: {', '.join(asked)}.")
    if importlib.util.find_spec("copier"):
        write_service()
    elif uv := shutil.which("uv"):
        # uv reads the block at the top of this file and brings Copier.
        environment = os.environ | ({KEEPS_FILES: "1"} if keeps_files() else {})
        command = [uv, "run", "--quiet", "--script", __file__]
        sys.exit(subprocess.call(command, env=environment))
    else:
        sys.exit(
            "This template needs Copier: install it beside Cookiecutter, or uv, which brings it."
        )


if __name__ == "__main__":
    main()
