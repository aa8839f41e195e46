"""The service as a process of its own, which ends with this one."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx2

from devservers.server import free_port
from devservers.waiting import HANG


class ServiceFailed(Exception):
    """The service did not start; what it said is on standard error."""


@dataclass(frozen=True, slots=True)
class Service:
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def loads(self) -> int:
        """How often this process has computed what it caches, by its own metrics."""
        metrics = httpx2.get(f"{self.url}/metrics", trust_env=False, timeout=HANG).text
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in metrics.splitlines()
            if line.startswith("cache_loads_total{")
        )


@contextmanager
def running(processes: int = 1, *, cached: bool = True) -> Iterator[list[Service]]:
    """Start the service with the environment that we have, and wait until it serves.

    Args:
        processes: how many of them, each on a port of its own.
        cached: False leaves the cache out of it.

    Raises:
        ServiceFailed: one ended, or did not serve in time.
    """
    with ExitStack() as stack:
        started = [stack.enter_context(_process(cached)) for _ in range(processes)]
        for process, service in started:
            _wait_until_it_serves(process, service)
        yield [service for _, service in started]


@contextmanager
def _process(cached: bool) -> Iterator[tuple[subprocess.Popen[bytes], Service]]:
    service = Service(free_port())
    command = [sys.executable, "-m", "benchmarks.serve", str(service.port)]
    process = subprocess.Popen(
        command if cached else [*command, "--without-cache"],
        env={**os.environ, "CACHE_WARM_UP": "false"},  # only what is asked for is loaded
        stdin=subprocess.PIPE,  # the service ends when we, who hold it, are gone
        start_new_session=True,  # Ctrl-C is for us
    )
    try:
        yield process, service
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_serves(process: subprocess.Popen[bytes], service: Service) -> None:
    deadline = time.monotonic() + HANG
    while True:
        ended = process.poll() is not None
        try:
            httpx2.get(f"{service.url}/health/live", trust_env=False, timeout=1).raise_for_status()
        except httpx2.HTTPError:
            if ended or time.monotonic() > deadline:
                raise ServiceFailed("the service did not start") from None
            time.sleep(0.05)
        else:
            return
