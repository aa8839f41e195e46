"""Waiting for a condition, on a machine that may be busy with something else."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

HANG = 60.0
"""Seconds after which what was waited for is taken never to come. No time that a test is about."""
PATIENCE = 10
"""Seconds that a server which was given has to answer, before it is taken to be away."""

_POLL = 0.01
# What the interpreter and the libraries of a service take to start on an idle machine, in seconds.
_IDLE = 0.8
_PROGRAM = "import fastapi, redis.asyncio, app.core.cache"
_MEASURED = "DEVSERVERS_SLOWNESS"


def wait_until(
    condition: Callable[[], object], *, what: str = "what was waited for", seconds: float = HANG
) -> None:
    """Return as soon as the condition is true.

    Args:
        condition: asked a hundred times a second.
        what: what is waited for, for the message.
        seconds: how long to wait at most.

    Raises:
        TimeoutError: it did not become true.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:g} s")
        time.sleep(_POLL)


async def until(
    condition: Callable[[], object | Awaitable[object]],
    *,
    what: str = "what was waited for",
    seconds: float = HANG,
) -> None:
    """Return as soon as the condition, which may be a coroutine function, is true.

    Args and errors are those of `wait_until`.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if await answer if isinstance(answer, Awaitable) else answer:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:g} s")
        await asyncio.sleep(_POLL)


def slowness() -> float:
    """How many times longer than an idle machine this one takes to start Python; at least 1.

    Measured once: processes that this one starts are told.
    """
    if measured := os.environ.get(_MEASURED):
        return float(measured)
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", _PROGRAM], env=_with_our_path(), check=False)
    factor = round(max(1.0, (time.monotonic() - began) / _IDLE), 1)
    os.environ[_MEASURED] = str(factor)
    return factor


def _with_our_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
