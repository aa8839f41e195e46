"""Run a generated service as a process of its own, and leave nothing of it behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil


class ServiceFailed(Exception):
    """The service did not start, died or did not stop; the message ends with its last log lines."""


@dataclass(frozen=True)
class RunningService:
    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def running_service(
    folder: Path, log: Path, *, timeout: float = 60, variables: Mapping[str, str] | None = None
) -> Iterator[RunningService]:
    """Start a service on embedded servers, wait until it is ready, and stop it afterwards.

    Args:
        folder: a service whose environment `uv sync` has made.
        log: the file that gets all its output.
        timeout: seconds that it may take to get ready.
        variables: what its environment has besides ours, such as the REDIS_URL of a server to use.

    Raises:
        ServiceFailed: it was not ready in time, ended by itself, or left a process behind.
    """
    port = free_port()
    environment = service_environment() | {"DEVSERVERS": "embedded", **(variables or {})}
    command = [
        str(folder / ".venv/bin/python"),
        "-m",
        "devservers",
        "--no-reload",
        "--port",
        str(port),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for us: we stop the service, and check that it is gone.
            start_new_session=True,
        )
    service = RunningService(f"http://127.0.0.1:{port}", process)
    try:
        _wait_until_ready(service, log, timeout)
        yield service
    finally:
        _stop(process, log)


def service_environment() -> dict[str, str]:
    """Our environment, without what leads a service to our Python or to somebody's servers."""
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "REDIS_URL", "DATABASE_URL", "ENVIRONMENT")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    # Our programs come last: uv may be among them, and an old Redis is.
    folders = os.get_exec_path()
    last = [folder for folder in folders if folder.startswith(sys.prefix)]
    kept["PATH"] = os.pathsep.join([f for f in folders if f not in last] + last)
    return kept


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_ready(service: RunningService, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            raise _failure(f"The service ended with exit code {service.process.returncode}", log)
        try:
            if httpx2.get(f"{service.url}/health/ready", timeout=timeout).is_success:
                return
        except httpx2.TransportError:
            pass  # it does not listen yet
        time.sleep(0.05)
    raise _failure(f"The service was not ready after {timeout:g} s", log)


def _stop(process: subprocess.Popen[bytes], log: Path, timeout: float = 60) -> None:
    family: list[psutil.Process] = []
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise _failure(f"The service did not stop within {timeout:g} s", log) from None
    finally:
        _, left = psutil.wait_procs(family, timeout)
        for orphan in left:
            orphan.kill()
        psutil.wait_procs(left, timeout)
    if left:
        names = ", ".join(str(orphan.pid) for orphan in left)
        raise _failure(f"The service left processes behind: {names}", log)


def _failure(what: str, log: Path) -> ServiceFailed:
    lines = log.read_text("utf-8", errors="replace").splitlines()[-15:]
    return ServiceFailed(
        "\n".join([f"{what}. The end of {log}:", *(f"  {line}" for line in lines)])
    )
