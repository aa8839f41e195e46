"""A real server, stopped by a real signal."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import httpx2
import pytest

from devservers.waiting import HANG, wait_until

PROGRAM = """if True:
    from contextlib import asynccontextmanager

    import uvicorn
    from fastapi import FastAPI

    from app.core.observability.health import drain_on_sigterm
    from app.core.observability.health import Health, create_health_router

    health = Health()

    @asynccontextmanager
    async def lifespan(app):
        with drain_on_sigterm(health, {delay}):
            yield
        print("closed", flush=True)

    app = FastAPI(lifespan=lifespan)
    app.include_router(create_health_router(health))
    uvicorn.run(app, port={port}, log_level="warning")
"""


@contextmanager
def service(delay: float) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", PROGRAM.format(delay=delay, port=port)]
    folder = Path(__file__).parents[2]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process,
        # A connection of its own for each request: those that exist outlive the port.
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"connection": "close"}) as http,
    ):
        try:
            wait_until(lambda: answer(http) == 200)
            yield process, http
        finally:
            process.kill()


def answer(http: httpx2.Client) -> int | None:
    try:
        return http.get("/health/ready").status_code
    except httpx2.TransportError:
        return None


def test_the_service_is_unready_before_it_stops() -> None:
    with service(delay=0.5) as (process, http):
        told = monotonic()
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: answer(http) == 503)
        assert http.get("/health/live").status_code == 200
        assert process.wait(HANG) == -signal.SIGTERM
        assert monotonic() - told >= 0.5
        assert process.stdout is not None
        assert process.stdout.read().endswith("closed\n")


@pytest.mark.parametrize(("delay", "signals"), [(0, 1), (600, 2)])
def test_it_stops_at_once_without_a_delay_or_when_told_twice(delay: float, signals: int) -> None:
    with service(delay=delay) as (process, http):
        process.send_signal(signal.SIGTERM)
        if signals == 2:
            wait_until(lambda: answer(http) == 503)
            process.send_signal(signal.SIGTERM)
        assert process.wait(HANG) == -signal.SIGTERM  # long before the delay is over
        assert process.stdout is not None
        assert process.stdout.read().endswith("closed\n")
