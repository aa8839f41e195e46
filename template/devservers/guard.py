"""The owner's side of a guardian: a folder, and a process that end with the owner."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_GUARDIAN = Path(__file__).with_name("guardian.py")


class ServerUnavailable(Exception):
    """A server could not be had; the message says why and what to do."""


class Guard:
    """A folder that lives as long as we do, at most, and a process that runs there.

    Also when we are killed with SIGKILL: see `guardian.py`.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        """Start the guardian.

        Args:
            name: begins the name of a temporary folder.
            folder: use this folder instead, and keep it.

        Raises:
            ServerUnavailable: the folder cannot be made.
        """
        self.folder = folder or Path(tempfile.gettempdir(), f"{name}-{secrets.token_hex(6)}")
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            # -I and -S: neither the environment nor what is installed slows it down.
            [sys.executable, "-I", "-S", _GUARDIAN, self.folder, "keep" if folder else "remove"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            # Ctrl-C reaches all processes of the terminal, but the server has to stay for as long
            # as its owner needs to end.
            start_new_session=True,
        )
        _OPEN.add(self)
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def run(
        self,
        command: Sequence[str],
        *,
        user: tuple[int, int] | None = None,
        end_signal: signal.Signals = signal.SIGKILL,
    ) -> int:
        """Start a process, its output going to `log` in the folder; returns its pid.

        One that still runs is killed before.

        Args:
            command: the program and its arguments.
            user: uid and gid to run it as; None: our own.
            end_signal: what the process gets first when the guard is closed, or we are gone.

        Raises:
            ServerUnavailable: there is no such program, or it cannot be run.
        """
        return int(self._order("start", list(command), user, end_signal) or 0)

    def status(self) -> int | None:
        """The exit code of the process; None while it runs."""
        return self._order("status")

    def signal(self, number: signal.Signals) -> None:
        """Signal the process and its children; nothing happens if it has ended."""
        self._order("signal", number)

    def kill(self) -> None:
        """Kill the process and its children; they are gone when this returns."""
        self._order("kill")

    def adopt(self, group: int) -> None:
        """Kill a process group that we have started ourselves, too, when this is closed."""
        self._order("adopt", group)

    def close(self) -> None:
        """End the process and remove the folder."""
        self.abandon()
        self._process.wait()

    def abandon(self) -> None:
        """Let go of the guardian, in a fork: it belongs to the process that has started it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _order(self, *words: object) -> int | None:
        with self._lock:
            if self._process.stdin is None or self._process.stdin.closed:
                raise RuntimeError("this guard is closed")
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            return self._answer()

    def _answer(self) -> int | None:
        line = self._process.stdout.readline() if self._process.stdout is not None else b""
        if not line:
            raise ServerUnavailable("the guardian of the server is gone")
        answer: int | str | None = json.loads(line)
        if isinstance(answer, str):
            raise ServerUnavailable(answer)
        return answer


_OPEN: weakref.WeakSet[Guard] = weakref.WeakSet()


def _abandon_all() -> None:
    # A process that was started does not get the pipes (they are closed on exec), but a plain fork
    # does, and would keep the server running after its owner.
    for guard in _OPEN:
        guard.abandon()


os.register_at_fork(after_in_child=_abandon_all)
