"""What is measured ends with the process that measures."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import load
from benchmarks.environments import Environments
from benchmarks.peers import BARE, PLAIN, Peer
from benchmarks.servers import ApplicationFailed, Applications
from devservers.waiting import wait_until
from tests.template.answers import ROOT

OWNER = """
import sys, time
sys.path[:0] = [{root!r}, {root!r} + "/template"]
from pathlib import Path
from benchmarks.environments import Environments
from benchmarks.peers import BARE
from benchmarks.servers import Applications

folder = Path(sys.argv[1])
applications = Applications(Environments(folder, shared=True), folder)
with applications.running(BARE, "redis://127.0.0.1:1/0") as application:
    print(application.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def applications(tmp_path: Path) -> Applications:
    return Applications(Environments(tmp_path, shared=True), tmp_path)


async def test_an_application_serves_and_is_gone(applications: Applications) -> None:
    with applications.running(BARE, "redis://127.0.0.1:1/0") as application:
        assert await load.fetch(application.port, "/items/1000-1") == 200
        assert await load.fetch(application.port, "/items/1000-1") == 200
        assert application.calls() == 1
    assert not psutil.pid_exists(application.pid)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_application_does_not_outlive_a_killed_owner(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER.format(root=str(ROOT)), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not runs(pid), what="the end of the application")


def test_an_application_that_cannot_start_says_why(applications: Applications) -> None:
    broken = Peer("broken", "no_such_module", PLAIN)
    with (
        pytest.raises(ApplicationFailed, match="no_such_module"),
        applications.running(broken, "redis://127.0.0.1:1/0"),
    ):
        pass
