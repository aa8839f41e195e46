"""A terminal is closed over `make dev`: nothing of it goes on, however it was started."""

import os
import pty
from pathlib import Path

import psutil
import pytest

from devservers.server import free_port
from devservers.waiting import wait_until
from tests.core.servers.owners import is_alive
from tests.core.servers.test_command import command, service, variables

__all__ = ["service"]

pytestmark = pytest.mark.slow


def family_of(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize("reload", [True, False], ids=["reload", "plain"])
def test_a_closed_terminal_ends_what_make_has_started(service: Path, reload: bool) -> None:
    """make is first in the terminal, as in a task of an editor or with `ssh -t`."""
    port = free_port()
    words = command("--port", str(port), *([] if reload else ["--no-reload"]))
    (service / "Makefile").write_text(f"dev:\n\t{' '.join(words)}\n")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(service)
        os.execvpe("make", ["make", "dev"], variables())
    family: list[psutil.Process] = []
    try:
        shown = b""
        while b"Application startup complete" not in shown:
            shown += os.read(terminal, 65536)
        family = family_of(pid)
        assert any("valkey" in process.name() for process in family)
        assert any("uvicorn" in process.cmdline() for process in family)
    finally:
        os.close(terminal)
    try:
        wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0], what="the end of make")
        wait_until(lambda: not any(map(is_alive, family)), what="the end of what it had started")
    finally:
        for process in filter(is_alive, family):
            process.kill()
    assert (service / "stopped-in-order").exists()
