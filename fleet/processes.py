"""Other programs: with a time limit, never waiting for a password, and none of them left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from fleet.results import without_credentials

GUARDIAN = Path(__file__).with_name("guardian.py")
# Set while Git runs a hook, and would lead to the wrong repository.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")
# A question that nobody sees would hang the fleet until its time limit.
UNATTENDED = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS_REQUIRE": "never",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=15",
    "LC_ALL": "C",
}


class CommandFailed(Exception):
    """A program failed or took too long; the text says which, and its own last words."""


class Processes:
    """Starts programs, each in a process group of its own, so that it ends with its children."""

    def __init__(self, scratch: Path) -> None:
        """`scratch`: the folder of the fleet, which goes with it."""
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._guardian = subprocess.Popen(
            # -I and -S: neither the environment nor what is installed slows it down.
            [sys.executable, "-I", "-S", GUARDIAN, scratch],
            stdin=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
            text=True,
        )

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        timeout: float,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Return what it prints. `timeout` in seconds; raises CommandFailed."""
        inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        with self._lock:
            if self._stopped:
                raise CommandFailed("interrupted")
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=inherited | UNATTENDED | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
            self._tell(f"+{process.pid}")
        name = " ".join(command[:2])
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{name} took longer than {timeout:g} s") from None
        finally:
            kill(process)  # also what a check left running in the background
            process.wait()
            with self._lock:
                self._running.discard(process)
                self._tell(f"-{process.pid}")
        if process.returncode:
            words = last_words(errors) or last_words(output) or f"exit code {process.returncode}"
            raise CommandFailed(f"{name}: {words}")
        return output

    def stop(self) -> None:
        """End all of them, and start no more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                kill(process)

    def close(self) -> None:
        """End all of them, and remove the folder of the fleet."""
        self.stop()
        with self._lock:
            self._guardian.communicate()

    def _tell(self, order: str) -> None:
        stdin = self._guardian.stdin
        if stdin is not None and not stdin.closed:
            stdin.write(f"{order}\n")
            stdin.flush()


def kill(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # it ended, and so did its children


def last_words(text: str) -> str:
    """The line that says why: Git's first `fatal`, or the last one; and what a server answered."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("fatal:", "ERROR", "error:", "FAILED"))]
    told = [line for line in lines if line.startswith("remote:") and line != "remote:"]
    cause = (fatal or lines or [""])[0 if fatal else -1]
    return without_credentials(" ".join(dict.fromkeys([*told, cause])))[:500]
