"""`make bench` of a generated service: it measures, draws, says whether caching pays, and ends."""

import os
import re
import signal
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from devservers.waiting import wait_until
from scripts.running import service_environment
from tests.template.conftest import Render

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

COMMAND = (".venv/bin/python", "-m", "benchmarks", "--quick")


@pytest.fixture
def measured(service: Render, request: pytest.FixtureRequest) -> Path:
    folder = service(database=getattr(request, "param", "sqlite"))
    subprocess.run(["uv", "sync", "--quiet"], cwd=folder, env=service_environment(), check=True)
    return folder


# A database that is a server, and one without SQL; the tests below have a file.
@pytest.mark.parametrize("measured", ["postgres", "s3"], indirect=True)
def test_a_service_measures_itself(measured: Path) -> None:
    # A server that somebody works with must not be emptied, frozen or killed: it is not used.
    foreign = {"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "nonsense://"}
    done = subprocess.run(
        COMMAND,
        cwd=measured,
        env={**service_environment(), **foreign},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for path in ("/items/{item_id}", "/items"):
        assert re.search(rf"^{re.escape(path)} .* ms .* -> .* x ", done.stdout, re.MULTILINE)
    assert "computed once (without the cache 100 times)" in done.stdout
    assert re.search(r"0 of \d+ requests failed", done.stdout)
    assert re.search(r"^Caching (pays|does not pay) ", done.stdout, re.MULTILINE)
    ElementTree.parse(measured / "benchmarks/results.svg")


def test_an_interrupted_benchmark_leaves_nothing_behind(measured: Path) -> None:
    with subprocess.Popen(
        COMMAND, cwd=measured, env=service_environment(), stderr=subprocess.PIPE, text=True
    ) as bench:
        assert bench.stderr is not None
        for line in bench.stderr:
            if line.startswith("bench: route"):
                break
        family = psutil.Process(bench.pid).children(recursive=True)
        assert len(family) >= 4
        os.kill(bench.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(_runs, family)), what="the end of its processes")


def test_a_cached_route_that_nobody_asks_for_is_named(measured: Path) -> None:
    traffic = measured / "benchmarks/traffic.py"
    text = traffic.read_text("utf-8")
    changed = re.sub(r'\n        found\["/items"\] = .*', "", text)
    assert changed != text
    traffic.write_text(changed, "utf-8")
    with subprocess.Popen(
        COMMAND, cwd=measured, env=service_environment(), stderr=subprocess.PIPE, text=True
    ) as bench:
        assert bench.stderr is not None
        told = any("GET /items is cached and not measured" in line for line in bench.stderr)
        bench.terminate()
    assert told


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
