"""An outage in the log: one line when it begins, and one when it is over, with a count."""

import time
from collections.abc import Callable
from typing import Any

import structlog

from app.core.redis.outages import advice

log = structlog.get_logger(__name__)


class OutageLog:
    """For what tries again until it succeeds: `lost` each time that it fails, `back` when not."""

    def __init__(
        self, what: str, *, monotonic: Callable[[], float] = time.monotonic, **facts: Any
    ) -> None:
        """`what` begins the names of both lines, as in `redis.link_lost`; `facts` are on both."""
        self._what = what
        self._facts = facts
        self._monotonic = monotonic
        self._since: float | None = None
        self._failures = 0

    def lost(self, error: BaseException) -> None:
        """Log the first failure, and count those that follow it."""
        self._failures += 1
        if self._since is None:
            self._since = self._monotonic()
            reason = f"{type(error).__name__}: {error}"
            log.warning(f"{self._what}_lost", error=reason, advice=advice(error), **self._facts)

    def back(self) -> None:
        """Log that it is over, if it was lost."""
        if self._since is not None:
            log.info(
                f"{self._what}_back",
                seconds=round(self._monotonic() - self._since, 1),
                failures=self._failures,
                **self._facts,
            )
            self._since, self._failures = None, 0
