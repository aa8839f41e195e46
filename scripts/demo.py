"""Generate a service, run it on real servers, send it requests and show what happened.

make demo             stop it at the end
make demo SERVE=1     leave it running until Ctrl-C
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from copier import run_copy

from scripts.running import RunningService, ServiceFailed, running_service, service_environment
from scripts.snapshot import snapshot
from scripts.tour import TourFailed, take_tour

ROOT = Path(__file__).parents[1]
DEMO = ROOT / ".demo"
SERVICE = DEMO / "orders"
LOG = DEMO / "orders.log"
# How the development servers say which one was taken; the rest of the line has the password.
SERVER = re.compile(r"((?:redis|database): .+) at \S+$")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="leave it running until Ctrl-C")
    serve = parser.parse_args().serve
    # A closed terminal or a `kill` has to stop the service too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        run_demo(serve=serve)
    except (ServiceFailed, TourFailed) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run_demo(*, serve: bool) -> None:
    where = SERVICE.relative_to(ROOT)
    with stage(f"copier copy: the template, default answers, into {where}"):
        generate()
    with stage("uv sync: an environment of its own"):
        make_environment()
    with ExitStack() as stack:
        with stage("python -m devservers: its database, a Redis and the service"):
            running = stack.enter_context(running_service(SERVICE, LOG))
        for line in LOG.read_text("utf-8").splitlines():
            if server := SERVER.match(line):
                print(f"          {server[1]}")
        print()
        take_tour(running.url)
        print()
        if serve:
            serve_until_interrupted(running)
        with stage("stopped, with nothing left running"):
            stack.close()
    print(f"\nThe service is in {where}, and its README.md explains it.")
    if not serve:
        print("`make demo SERVE=1` leaves it running.")


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Say what was done, and how many seconds it took."""
    started = time.perf_counter()
    yield
    print(f"{time.perf_counter() - started:6.2f} s  {what}", flush=True)


def generate() -> None:
    shutil.rmtree(DEMO, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        template = snapshot(ROOT, Path(folder, "template"))
        run_copy(str(template), SERVICE, {"service_name": SERVICE.name}, defaults=True, quiet=True)


def make_environment() -> None:
    done = subprocess.run(
        ["uv", "sync", "--quiet"],
        cwd=SERVICE,
        env=service_environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceFailed(f"uv sync failed:\n{done.stderr}")


def serve_until_interrupted(running: RunningService) -> None:
    for name, path in (("docs", "docs"), ("health", "health/ready"), ("metrics", "metrics")):
        print(f"  {name:8} {running.url}/{path}")
    print(f"  log      {LOG.relative_to(ROOT)}\n\nCtrl-C stops it.", flush=True)
    try:
        code = running.process.wait()
    except KeyboardInterrupt:
        print()
    else:
        raise ServiceFailed(f"The service ended by itself, with exit code {code}; see {LOG}")


if __name__ == "__main__":
    sys.exit(main())
