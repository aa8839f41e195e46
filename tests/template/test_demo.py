"""`make demo`: a generated service, running; stopped with nothing left behind."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

from scripts.running import ServiceFailed, running_service
from tests.template.answers import ROOT

DEMO = [sys.executable, "-m", "scripts.demo"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_shows_what_happens_and_serves_until_interrupted(
    request: pytest.FixtureRequest,
) -> None:
    demo = subprocess.Popen([*DEMO, "--serve"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    request.addfinalizer(demo.terminate)
    assert demo.stdout
    shown = []
    for line in demo.stdout:
        shown.append(line)
        if line.startswith("Ctrl-C"):
            break
    output = "".join(shown)
    assert "read, warm" in output, output
    health = next(line.split()[1] for line in shown if line.strip().startswith("health"))
    assert httpx2.get(health).is_success
    family = psutil.Process(demo.pid).children(recursive=True)
    assert family

    demo.send_signal(signal.SIGINT)

    assert demo.wait(timeout=60) == 0
    assert "nothing left running" in demo.stdout.read()
    demo.stdout.close()
    assert [process for process in family if process.is_running()] == []
    with pytest.raises(httpx2.TransportError):
        httpx2.get(health)


def broken_service(folder: Path, program: str) -> Path:
    """A service whose `python -m devservers` does something else."""
    (folder / "devservers").mkdir(parents=True)
    (folder / "devservers/__main__.py").write_text(program)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    return folder


def test_a_service_that_does_not_start_shows_its_last_words(tmp_path: Path) -> None:
    service = broken_service(tmp_path / "service", "raise SystemExit('REDIS_URL: no such scheme')")
    with (
        pytest.raises(ServiceFailed, match=r"(?s)exit code 1.*REDIS_URL: no such scheme"),
        running_service(service, tmp_path / "log"),
    ):
        pass


def test_a_service_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    service = broken_service(tmp_path / "service", "import time; time.sleep(600)")
    before = psutil.Process().children(recursive=True)
    with (
        pytest.raises(ServiceFailed, match=r"not ready after 0\.5 s"),
        running_service(service, tmp_path / "log", timeout=0.5),
    ):
        pass
    assert psutil.Process().children(recursive=True) == before


@pytest.mark.slow
def test_a_process_that_is_left_behind_is_reported_and_ended(tmp_path: Path) -> None:
    program = """
import http.server, subprocess, sys

orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(orphan.pid, flush=True)

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Ready).serve_forever()
"""
    service = broken_service(tmp_path / "service", program)
    log = tmp_path / "log"
    with (
        pytest.raises(ServiceFailed, match="left processes behind"),
        running_service(service, log),
    ):
        assert psutil.pid_exists(pid_in(log))
    assert not psutil.pid_exists(pid_in(log))


def pid_in(log: Path) -> int:
    return int(log.read_text().split()[0])
