"""The circuit breaker: after a few failures in a row nobody asks Redis any more for a while.

While it is open every cache operation costs nothing and the service answers from its loaders. No
request ever pays for finding out whether Redis is back: `Recovery` does, in the background.
"""

from collections.abc import Callable

import structlog

from app.core.cache import metrics

log = structlog.get_logger(__name__)


class Breaker:
    """Counts consecutive failures and opens at `threshold` of them."""

    def __init__(self, *, threshold: int, on_open: Callable[[], None]) -> None:
        self._threshold = threshold
        self._on_open = on_open
        self._failures = 0
        self.is_open = False
        metrics.breaker_open.set(0)

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, why: str) -> None:
        self._failures += 1
        if self._failures >= self._threshold:
            self.open(why)

    def open(self, why: str) -> None:
        if self.is_open:
            return
        log.warning("cache.redis_left_alone", why=why)
        self.is_open = True
        metrics.breaker_open.set(1)
        self._on_open()

    def close(self) -> None:
        self._failures = 0
        self.is_open = False
        metrics.breaker_open.set(0)
