# /// script
# requires-python = ">=3.11"
# dependencies = ["copier>=9.19.1"]
# ///
"""The Cookiecutter door: Cookiecutter asks the questions, Copier writes the service.

So both doors write the same bytes, and a service knows its template and its answers whichever
door it came through. Cookiecutter renders this file, runs it in the new folder, and removes that
folder when it fails.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

# A JSON text holds no bare quote, so no answer can end this string.
CONTEXT = json.loads(r"""{{ cookiecutter | jsonify }}""")
REMOTE = re.compile(r"gh:|gl:|\w+@|[a-z+]+://")
# What Copier takes for an address by itself; it would look for any other one in a folder.
COPIER_KNOWS = re.compile(r"gh:|gl:|git@|git\+|git://|https://git(hub|lab)\.com/|.*\.git\Z")


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
            source, Path.cwd(), answers(), vcs_ref=ref, defaults=True, overwrite=True, quiet=True
        )
    except (CopierError, ValueError) as error:  # a refused answer is a ValueError
        sys.exit(str(error))
    print(f"The service is in {Path.cwd()}. Its README.md says how to start it.")


def main() -> None:
    if importlib.util.find_spec("copier"):
        write_service()
    elif uv := shutil.which("uv"):
        # uv reads the block at the top of this file and brings Copier.
        sys.exit(subprocess.call([uv, "run", "--quiet", "--script", __file__]))
    else:
        sys.exit(
            "This template needs Copier: install it beside Cookiecutter, or uv, which brings it."
        )


if __name__ == "__main__":
    main()
