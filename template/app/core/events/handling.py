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
from app.core.events.position import EventId, Lost, Record

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
        if record.name == Missed.event_name:  # its publisher had no room for them
            self._count_lost(record.data.decode(errors="replace"), record.id)
        elif not handlers:
            metrics.handled.labels(self._publisher, "unknown").inc()
        for handler in handlers:
            try:
                event = handler.event_type.model_validate_json(record.data)
            except ValidationError as error:
                self._count("invalid")
                log.error("events.invalid", **self._where(record.name, record.id), error=str(error))
            else:
                await self._try(handler, event, record.id)
        if record.published:  # not by hand
            lag = max(0.0, time() - record.published)
            metrics.lag_seconds.labels(self._publisher).observe(lag)

    async def lost(self, lost: Lost, *, before: EventId) -> None:
        """Tell that events right before that one are gone."""
        missed = Missed(count=lost.count)
        self._count_lost(missed.model_dump_json(), before)
        for handler in self._by_name.get(Missed.event_name, []):
            await self._try(handler, missed, before)

    async def _try(self, handler: Handler, event: Event, id_: EventId) -> None:
        failures, tries, pause = 0, 0, _FIRST_PAUSE
        where = self._where(event.event_name, id_)
        while True:
            tries += 1
            try:
                async with asyncio.timeout(self._timeout) as limit:
                    await handler.handle(event)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError):
                    if _is_cancelled():
                        raise
                    failures += 1  # something that the handler waited for was
                else:
                    failures += limit.expired() or not self._transient(error)
                if failures >= _ATTEMPTS:
                    self._count("failed")
                    log.exception("events.failed", **where, exc_info=error)
                    return
                self._count("retried")
                if tries == 1:  # an outage would fill the log
                    log.warning("events.retried", **where, error=repr(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._count("ok")
                if tries > 1:
                    log.info("events.handled_at_last", **where, tries=tries)
                return

    def _count(self, outcome: str) -> None:
        metrics.handled.labels(self._publisher, outcome).inc()

    def _count_lost(self, what: str, before: EventId) -> None:
        metrics.missed.labels(self._publisher).inc()
        log.error("events.missed", publisher=self._publisher, before=str(before), what=what)

    def _where(self, name: str, id_: EventId) -> dict[str, str]:
        return {"publisher": self._publisher, "name": name, "id": str(id_)}


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
