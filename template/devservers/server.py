"""What the embedded servers have in common: start, wait until ready, and what tests do to them."""

import secrets
import signal
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from weakref import WeakSet

from devservers.guard import Guard, ServerUnavailable
from devservers.waiting import HANG

# Above the ports of well-known servers and below those that systems give to outgoing connections:
# a client that keeps connecting to a killed server would sooner or later get its port, or even
# reach itself there, and the server could not come back.
_PORTS = range(15_000, 32_000)
_ATTEMPTS = 10
_POLL = 0.002
_LINES = 10


class EmbeddedServer(ABC):
    """A server that runs while the context is entered; nothing of it is left afterwards.

    Nothing is left either when this process is killed, even if the server is frozen then.
    Subclasses say what to run and how to see that it is ready.
    """

    host = "127.0.0.1"
    port: int
    pid: int
    folder: Path
    """The server's files and its `log`."""

    _name: ClassVar[str]
    _ready: ClassVar[str]
    """What the server's log says once it listens: another one on the port would answer as well."""
    _end_signal: ClassVar[signal.Signals] = signal.SIGKILL
    _user: tuple[int, int] | None = None
    """uid and gid to run as; None: our own."""

    def __init__(
        self,
        *,
        port: int | None = None,
        folder: Path | None = None,
        start_timeout: float = HANG,
    ) -> None:
        """Say how to start the server; nothing is done yet.

        Args:
            port: where to listen; None: a free port.
            folder: where to keep the server's files, which stay there; None: a temporary folder.
            start_timeout: seconds after which a start has failed.
        """
        self._port = port
        self._given_folder = folder
        self._start_timeout = start_timeout
        self._guard: Guard | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the server is, as the settings of the service want it."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server replies to a client, within half a second."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The program and its arguments."""

    def _prepare(self) -> None:  # noqa: B027 - most servers need nothing
        """Put files into the folder before the first start."""

    def start(self) -> Self:
        """Start, and wait until the server answers.

        Raises:
            ServerUnavailable: it ended or did not answer in time; has the end of its log.
        """
        if self._guard is not None:
            raise RuntimeError(f"{self._name} is started already")
        guard = self._guard = Guard(self._name.lower(), self._given_folder)
        self.folder = guard.folder
        try:
            self._prepare()
            self._run_on_some_port()
        except BaseException:
            self.stop()
            raise
        _running.add(self)
        return self

    def stop(self) -> None:
        """End the server and remove its folder; nothing happens if it was not started."""
        _running.discard(self)
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def end_of_log(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join(self._log(0).splitlines()[-_LINES:])

    def restart(self) -> None:
        """Start again on the same port and files, after `kill` or while it runs.

        Raises:
            ServerUnavailable: as for `start`.
        """
        self._run()

    def kill(self) -> None:
        """SIGKILL: connections are reset, and nobody listens on the port."""
        self._started.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, new ones are even accepted, and nothing answers."""
        self._started.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: goes on where it was, with what was sent in between."""
        self._started.signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None and self._guard is not None:
            exc.add_note(f"The end of the log of {self}:\n{self.end_of_log()}")
        self.stop()

    def __str__(self) -> str:
        return f"{self._name} on port {self.port}"

    @property
    def _started(self) -> Guard:
        if self._guard is None:
            raise RuntimeError(f"{self._name} is not started")
        return self._guard

    def _run_on_some_port(self) -> None:
        attempts = 1 if self._port else _ATTEMPTS
        while True:
            self.port = self._port or free_port()
            attempts -= 1
            try:
                return self._run()
            except _PortTaken:
                if not attempts:
                    raise

    def _run(self) -> None:
        guard = self._started
        already = self._log_size()
        deadline = time.monotonic() + self._start_timeout
        self.pid = guard.run(self._command(), user=self._user, end_signal=self._end_signal)
        while True:
            ended = guard.status() is not None
            log = self._log(already)
            if self._ready in log and self.answers():
                return
            if ended and "Address already in use" in log:
                raise _PortTaken(f"{self._name} did not start: port {self.port} is taken")
            if ended or time.monotonic() > deadline:
                why = "ended at once" if ended else f"was not ready in {self._start_timeout:g} s"
                raise ServerUnavailable(with_end(f"{self._name} {why}. Its log:", log))
            time.sleep(_POLL)

    def _log_size(self) -> int:
        log = self.folder / "log"
        return log.stat().st_size if log.exists() else 0

    def _log(self, start: int) -> str:
        with (self.folder / "log").open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")


_running: WeakSet[EmbeddedServer] = WeakSet()


class _PortTaken(ServerUnavailable):
    """Somebody else listens there."""


def running_servers() -> list[EmbeddedServer]:
    """The servers of this process that run now."""
    return sorted(_running, key=lambda server: server.port)


def free_port() -> int:
    """A port of the loopback interface on which nobody listens now."""
    while True:
        # Not from `random`, which tests seed: parallel ones would all try the same ports.
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def with_end(message: str, log: str, lines: int = _LINES) -> str:
    """The message, and the last lines of the log under it."""
    return "\n".join([message, *(f"  {line}" for line in log.splitlines()[-lines:])])
