"""From a record in the stream to the functions that handle it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import time
from typing import Any

import structlog
from pydantic import ValidationError

from app.core.events import metrics
from app.core.events.event import Event, Missed
from app.core.events.stream import Record

log = structlog.get_logger(__name__)

Handle = Callable[[Any], Awaitable[None]]

_ATTEMPTS = 3
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Handler:
    event_type: type[Event]
    handle: Handle


class Handlers:
    """What is done with the events of one publisher."""

    def __init__(
        self, publisher: str, *, transient: Callable[[Exception], bool], timeout: float
    ) -> None:
        """Errors that are `transient` are tried again without end, others a few times."""
        self._publisher = publisher
        self._transient = transient
        self._timeout = timeout
        self._by_name: dict[str, list[Handler]] = {}

    def add(self, event_type: type[Event], handle: Handle) -> None:
        self._by_name.setdefault(event_type.event_name, []).append(Handler(event_type, handle))

    async def take(self, record: Record) -> None:
        """Have a record handled; one that cannot be is skipped, and raises nothing."""
        handlers = self._by_name.get(record.name, [])
        if not handlers:
            metrics.handled.labels(self._publisher, "unknown").inc()
        for handler in handlers:
            try:
                event = handler.event_type.model_validate_json(record.data)
            except ValidationError as error:
                self._count("invalid")
                log.error("events.invalid", **self._where(record), error=str(error))
            else:
                await self._try(handler, event, record)
        published = record.position.milliseconds / 1000
        metrics.lag_seconds.labels(self._publisher).observe(max(0.0, time() - published))

    async def missed(self, before: Record, count: int | None) -> None:
        """Tell that events right before this one are gone."""
        metrics.missed.labels(self._publisher).inc()
        log.error("events.missed", **self._where(before), count=count)
        for handler in self._by_name.get(Missed.event_name, []):
            await self._try(handler, Missed(count=count), before)

    async def _try(self, handler: Handler, event: Event, record: Record) -> None:
        attempts, pause = 0, _FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    await handler.handle(event)
            except Exception as error:
                attempts += not self._transient(error)
                if attempts >= _ATTEMPTS:
                    self._count("failed")
                    log.exception("events.failed", **self._where(record), exc_info=error)
                    return
                self._count("retried")
                log.warning("events.retried", **self._where(record), error=repr(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._count("ok")
                return

    def _count(self, outcome: str) -> None:
        metrics.handled.labels(self._publisher, outcome).inc()

    def _where(self, record: Record) -> dict[str, str]:
        return {"publisher": self._publisher, "name": record.name, "id": record.position.id}
