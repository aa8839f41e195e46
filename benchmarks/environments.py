"""An environment per peer, and the generated service with the measured routes in it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from copier import run_copy

from benchmarks.peers import COMMON, SERVICE, Environment
from scripts.snapshot import snapshot

ROOT = Path(__file__).parents[1]
APPS = Path(__file__).with_name("apps")
# Beside our Python, where `make` puts it when it is missing.
UV = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))

# Where a service's own features go; see template/app/main.py.jinja.
_PLACE = "    # This service's own features: add yours here.\n"
_FEATURE = (
    "    from feature import create_bench_router\n\n"
    "    service.include(create_bench_router(cache))\n"
)
_SHOWN = ("fastapi", "uvicorn", "redis")


class EnvironmentFailed(Exception):
    """An environment could not be made; the message ends with what the installer said."""


class Environments:
    """The Pythons of all peers, made when they are first asked for and kept for the next time."""

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        """Say where to keep them.

        Args:
            folder: has the environments and the service afterwards.
            shared: make none; everything runs with the Python of this process, which has what the
                service needs and none of the peers' libraries.
        """
        self._folder = folder
        self._shared = shared
        self._ready: dict[str, Path] = {}
        self._service: Path | None = None

    def python(self, environment: Environment) -> Path:
        """The interpreter of an environment.

        Raises:
            EnvironmentFailed: something could not be installed.
        """
        if self._shared:
            return Path(sys.executable)
        if environment.name not in self._ready:
            self._ready[environment.name] = self._make(environment)
        return self._ready[environment.name]

    def service(self) -> Path:
        """The folder of the service, generated anew from the working tree of this repository."""
        if self._service is None:
            folder = self._folder / "service"
            shutil.rmtree(folder, ignore_errors=True)
            with tempfile.TemporaryDirectory() as temporary:
                template = snapshot(ROOT, Path(temporary, "template"))
                answers = {"service_name": "bench", "database": "sqlite"}
                run_copy(str(template), folder, answers, defaults=True, quiet=True)
            main = folder / "app/main.py"
            source = main.read_text("utf-8")
            if _PLACE not in source:
                raise EnvironmentFailed(f"app/main.py has no line {_PLACE.strip()!r} any more")
            main.write_text(source.replace(_PLACE, _PLACE + "\n" + _FEATURE), "utf-8")
            self._service = folder
        return self._service

    def versions(self, environment: Environment) -> dict[str, str]:
        """What is installed: the web stack, and what the environment is there for."""
        listed = _run([str(self.python(environment)), "-c", _LIST])
        installed = dict(line.split("==", 1) for line in listed.splitlines())
        wanted = [*_SHOWN, *(_name(requirement) for requirement in environment.requirements)]
        return {name: installed[name] for name in wanted if name in installed}

    def _make(self, environment: Environment) -> Path:
        folder = self._folder / "environments" / environment.name
        python = folder / "bin/python"
        if not python.exists():
            _run([UV, "venv", "--quiet", "--python", sys.executable, str(folder)])
        # Compiled once: else every start of an application compiles all that it imports.
        install = [UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        if environment is SERVICE:
            install += ["--requirements", str(self.service() / "pyproject.toml")]
        _run([*install, *COMMON, *environment.requirements])
        return python


_LIST = (
    "from importlib.metadata import distributions\n"
    "for found in distributions(): print(found.name.lower() + '==' + found.version)"
)


def _name(requirement: str) -> str:
    return requirement.partition(">=")[0].partition("[")[0]


def _run(command: Sequence[str]) -> str:
    # Not where this process runs, and not where it keeps what is compiled.
    theirs = ("VIRTUAL_ENV", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE")
    ours = {name: value for name, value in os.environ.items() if name not in theirs}
    done = subprocess.run(
        command, env=ours, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        raise EnvironmentFailed(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout
