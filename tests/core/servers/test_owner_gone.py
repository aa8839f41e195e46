"""Nothing of an embedded server outlives its owner, however that ends."""

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from devservers.mysql import EmbeddedMySQL
from devservers.waiting import HANG
from tests.core.database.backends import installed
from tests.core.servers.owners import is_alive, owner

pytestmark = pytest.mark.slow

_SERVERS = """
import os, signal, subprocess, sys, time
from devservers.valkey import EmbeddedValkey

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup make test` has it ignore
servers = [EmbeddedValkey().start(), EmbeddedValkey().start()]
print(*(server.folder for server in servers), sep="\\n", flush=True)
"""
_POSTGRES = """
from devservers.postgres import EmbeddedPostgres

servers.append(EmbeddedPostgres().start())
print(servers[-1].folder, flush=True)
"""
_WAIT = "print('ready', flush=True); time.sleep(600)"


@pytest.mark.parametrize(
    "before",
    [
        "",
        "for server in servers: server.freeze()",
        # As a test may do it, behind our back.
        "for server in servers: os.kill(server.pid, signal.SIGSTOP)",
        "for server in servers: server.kill()",
    ],
    ids=["running", "frozen", "stopped", "killed-before"],
)
def test_owner_is_killed(before: str, record_property: Callable[[str, object], None]) -> None:
    with owner("\n".join([_SERVERS, _POSTGRES, before, _WAIT])) as owned:
        assert len(owned.folders) == 3
        assert len(owned.family) >= 3
        owned.process.kill()
        owned.process.wait()
        record_property("seconds", owned.wait_until_nothing_is_left())


def test_owner_of_a_mysql_is_killed() -> None:
    installed(EmbeddedMySQL)  # or this is skipped
    script = """
import time
from devservers.mysql import EmbeddedMySQL

server = EmbeddedMySQL().start()
print(server.folder, flush=True)
"""
    with owner(script + _WAIT) as owned:
        owned.process.kill()
        owned.process.wait()
        owned.wait_until_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_owner_gets_a_signal(number: signal.Signals) -> None:
    with owner(_SERVERS + "sys.stderr.close()\n" + _WAIT) as owned:
        owned.process.send_signal(number)
        owned.process.wait()
        owned.wait_until_nothing_is_left()


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise RuntimeError('on purpose')", "os._exit(3)"])
def test_owner_ends_by_itself_without_stopping(end: str) -> None:
    """As an owner does that never leaves the context."""
    script = _SERVERS + "print('ready', flush=True)\nsys.stdin.readline()\nsys.stderr.close()\n"
    with owner(script + end) as owned:
        owned.process.wait(HANG)
        owned.wait_until_nothing_is_left()


def test_other_children_do_not_keep_the_servers() -> None:
    """Neither a fork nor a program that inherits whatever it can."""
    bystanders = """
others = [subprocess.Popen(["sleep", "600"], close_fds=False, start_new_session=True).pid]
others.append(os.fork())
if not others[-1]:
    time.sleep(600)
print(*others, sep="\\n", flush=True)
"""
    with owner(_SERVERS + bystanders + _WAIT) as owned:
        pids = {int(owned.folders.pop().name) for _ in range(2)}
        others = [process for process in owned.family if process.pid in pids]
        owned.family = [process for process in owned.family if process.pid not in pids]
        owned.process.kill()
        owned.process.wait()
        try:
            owned.wait_until_nothing_is_left()
            assert len(others) == 2
            assert all(map(is_alive, others))
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)


def test_ctrl_c_reaches_the_owner_and_not_the_servers() -> None:
    script = """
import time
from devservers.valkey import EmbeddedValkey

with EmbeddedValkey() as server:
    print(server.folder)
    try:
        print('ready', flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        time.sleep(0.1)  # time for the server to die of it, too
        print(any(server.answers() for _ in range(20)), flush=True)
print(server.folder.exists(), flush=True)
"""
    with owner(script) as owned:
        os.killpg(owned.process.pid, signal.SIGINT)  # what a terminal does
        assert owned.process.stdout is not None
        assert owned.process.stdout.read().split() == ["True", "False"]
        assert owned.process.wait() == 0
        owned.wait_until_nothing_is_left()


def test_guardian_that_is_terminated_takes_its_server_along() -> None:
    """As when a whole login session is ended."""
    with owner(_SERVERS + _WAIT) as owned:
        for guardian in psutil.Process(owned.process.pid).children():
            guardian.terminate()
        owned.wait_until_nothing_is_left()
