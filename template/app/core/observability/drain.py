"""Stopping without losing requests: first unready, then, when nobody sends any more, down."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

from app.core.observability.health import Health

log = structlog.get_logger(__name__)


@contextmanager
def drain_on_sigterm(health: Health, delay: float) -> Iterator[None]:
    """While this is open, SIGTERM makes the service unready, and stops it `delay` seconds later.

    A server closes its port as soon as it is told to stop, while load balancers send requests until
    they have seen that it is unready: `delay` should be a little longer than they take. A second
    SIGTERM stops at once. Has to be opened on the running loop, after the server has set its own
    handler, as in the lifespan; where there is no such handler it does nothing.
    """
    stop = signal.getsignal(signal.SIGTERM)
    # Python runs signal handlers in the main thread only, and sets them there only.
    if threading.current_thread() is not threading.main_thread() or not callable(stop):
        yield
        return
    loop = asyncio.get_running_loop()

    def drain(number: int, frame: FrameType | None) -> None:
        if health.draining:
            stop(number, frame)
            return
        health.drain()
        loop.call_soon_threadsafe(_announce, delay)
        loop.call_soon_threadsafe(loop.call_later, delay, stop, number, None)

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, stop)


def _announce(delay: float) -> None:
    # Not in the signal handler: it may have interrupted a line that is just being written.
    log.info("draining", seconds=delay)
