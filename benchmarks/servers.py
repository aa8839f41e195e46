"""Applications as processes of their own, which end with this one."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import cores
from benchmarks.environments import APPS, Environments
from benchmarks.peers import SERVICE, Peer
from devservers.server import free_port
from devservers.waiting import HANG

_STOP_TIMEOUT = 10.0


class ApplicationFailed(Exception):
    """An application did not start; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class Application:
    """One that runs."""

    peer: Peer
    port: int
    pid: int
    calls_file: Path
    log: Path

    def calls(self) -> int:
        """How often its loader was called, by all processes with the same file."""
        return self.calls_file.stat().st_size if self.calls_file.exists() else 0


class Applications:
    """Starts applications in the environments of their peers."""

    def __init__(self, environments: Environments, folder: Path) -> None:
        self._environments = environments
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._started = 0

    @contextmanager
    def running(
        self, peer: Peer, redis_url: str, *, calls: Path | None = None, **variables: str
    ) -> Iterator[Application]:
        """Start one and wait until it listens; it is gone afterwards.

        Args:
            peer: what to run.
            redis_url: its Redis.
            calls: the file in which its loader counts; None: one of its own.
            variables: more environment variables, such as `LOADER="0.1"`; see `apps/work.py`.

        Raises:
            ApplicationFailed: it ended, or did not listen in time.
        """
        self._started += 1
        name = f"{self._started}-{peer.module}"
        log = self._folder / f"{name}.log"
        calls = calls or self._folder / f"{name}.calls"
        port = free_port()
        command = [str(self._environments.python(peer.environment)), str(APPS / "serve.py")]
        command += [peer.module, str(port)]
        if cores.APPLICATION is not None:
            command.append(str(cores.APPLICATION))
        folder = self._environments.service() if peer.environment is SERVICE else APPS
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(folder, redis_url, calls, {**variables, **peer.variables}),
                stdin=subprocess.PIPE,  # the application ends when we, who hold it, are gone
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us
            )
        try:
            _wait_until_it_listens(process, port, peer, log)
            yield Application(peer, port, process.pid, calls, log)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(
    folder: Path, redis_url: str, calls: Path, variables: Mapping[str, str]
) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": f"{folder}:{APPS}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "REDIS_URL": redis_url,
        "CALLS": str(calls),
        # Of the service alone.
        "ENVIRONMENT": "production",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "WARNING",
        "DATABASE_URL": f"sqlite+aiosqlite:///{calls}.db",
        "NEAR_CACHE_BYTES": str(256 * 1024 * 1024),
        **variables,
    }


def _wait_until_it_listens(
    process: subprocess.Popen[bytes], port: int, peer: Peer, log: Path
) -> None:
    deadline = time.monotonic() + HANG
    while True:
        # In this order: uvicorn listens once the application has started.
        ended = process.poll() is not None
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if ended or time.monotonic() > deadline:
            end = log.read_text("utf-8", errors="replace")[-3000:]
            raise ApplicationFailed(f"{peer.name} did not start. The end of {log}:\n{end}")
        time.sleep(0.02)
