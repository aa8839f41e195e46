"""A replica that is told to stop finishes what it has begun."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx2

from devservers.server import free_port
from devservers.waiting import HANG, wait_until

# The service, with a route that takes a moment.
PROGRAM = """
import asyncio, sys, uvicorn
from app.main import create_app
app = create_app()
under_way = 0
@app.get("/moment")
async def moment() -> str:
    global under_way
    under_way += 1
    await asyncio.sleep(1.5)
    return "done"
@app.get("/under-way")
async def count() -> int:
    return under_way
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", timeout_graceful_shutdown=60)
"""


def is_live(base: str) -> bool:
    try:
        return httpx2.get(f"{base}/health/live").is_success
    except httpx2.HTTPError:
        return False


def test_requests_under_way_are_answered(servers: dict[str, str]) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    service = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port)], env={**os.environ, **servers}
    )
    try:
        wait_until(lambda: is_live(base), what="the service")
        get = partial(httpx2.get, timeout=HANG)
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(get, f"{base}/moment") for _ in range(8)]
            wait_until(lambda: get(f"{base}/under-way").json() == 8)
            service.send_signal(signal.SIGTERM)
            assert [answer.result().json() for answer in answers] == ["done"] * 8
        assert service.wait(timeout=HANG) in (0, -signal.SIGTERM)
    finally:
        service.kill()
