"""Ruff over rendered services, with the configuration that each of them has."""

import subprocess
import sys
from pathlib import Path


def assert_linted(*paths: Path) -> None:
    """Each of these files and folders is as the formatter and the linter of its service want it.

    Otherwise the first formatting in a service would make every later update conflict.
    """
    for command in (["check", "--output-format", "concise"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *paths],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
