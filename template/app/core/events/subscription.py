"""A process that follows the stream of one publisher, and has its events handled.

It always reads on from the last event that was handled, so nothing is lost or handled twice,
whatever happens to connections. An announcement only says that reading is worthwhile now, and what
should be there. At most one batch is in memory, however far behind the process is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from time import time
from typing import Any

import structlog
from pydantic import ValidationError
from redis.exceptions import RedisError

from app.core.events import metrics
from app.core.events.consumer import Consumer, OwnershipLost
from app.core.events.event import Event, EventsLost
from app.core.events.stream import NONE, EventId, Offset, Record, Stream
from app.core.redis import OutageLog
from app.core.tasks import Tasks

log = structlog.get_logger(__name__)

_BATCH = 100
_POLL_INTERVAL = 1.0
"""Seconds after which it reads although nothing was announced."""
_RETRY_PAUSE = 0.25
"""Seconds until it reads again after an error."""
_ATTEMPTS = 3
"""How often a handler may fail with an event before that is skipped."""
_FIRST_BACKOFF, _MAX_BACKOFF = 0.1, 5.0
"""Seconds between two attempts of a handler."""


class Subscription:
    """Reads, has it handled, and commits the offset, until it is stopped."""

    def __init__(self, stream: Stream, handlers: "Handlers", consumer: Consumer) -> None:
        self.stream = stream
        self.handlers = handlers
        self.error: str | None = None
        """Why nothing can be read at the moment."""
        self._consumer = consumer
        self._announced = NONE
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._tasks = Tasks()
        self._outage = OutageLog("events.reading", publisher=stream.publisher)

    def wake(self, newest: EventId = NONE) -> None:
        """Have it read, for there may be events up to the one that was announced."""
        self._announced = max(self._announced, newest)
        self._woken.set()

    async def start(self) -> None:
        """Follow the stream, from an offset that is taken now if Redis answers."""
        try:
            await self._consumer.begin()
        except (RedisError, OSError) as error:
            self._failed(error)
        self._stopping = False
        self._tasks.start(self._run())

    async def stop(self, grace: float) -> None:
        """End after the event that is being handled, or after `grace` seconds."""
        if not self._tasks:
            return
        self._stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        await self._tasks.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._flush()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                async with self._consumer.ownership() as offset:
                    self._outage.back()
                    self.error = None
                    if self._consumer.started_late:
                        await self.handlers.report(EventsLost(count=None), before=offset.last)
                        self._consumer.started_late = False
                    await self._follow(offset)
            except OwnershipLost:
                log.info("events.ownership_lost", publisher=self.stream.publisher)
            except Exception as error:  # without this task nothing is handled any more
                self._failed(error)
                await asyncio.sleep(_RETRY_PAUSE)

    def _failed(self, error: Exception) -> None:
        is_expected = isinstance(error, RedisError | OSError | TimeoutError)
        if self.error is None and not is_expected:
            log.error("events.reading_failed", publisher=self.stream.publisher, exc_info=error)
        self._outage.lost(error)
        self.error = str(error) or repr(error)

    async def _flush(self) -> None:
        """Commit what was handled and could not be committed, or it would come again."""
        while True:
            try:
                return await self._consumer.flush()
            except (RedisError, OSError):
                await asyncio.sleep(_RETRY_PAUSE)

    async def _follow(self, offset: Offset) -> None:
        while not self._stopping:
            self._woken.clear()
            records = await self.stream.read(offset.last, _BATCH)
            for record in records:
                if self._stopping:
                    return
                offset = await self._handle(record, offset)
            if len(records) < _BATCH and not await self._wait_until_woken():
                offset = await self._rewind_if_older(offset)

    async def _handle(self, record: Record, offset: Offset) -> Offset:
        self._idle.clear()
        try:
            offset, lost = offset.advance(record, announced=self._announced)
            if lost:
                await self.handlers.report(lost, before=record.id)
            await self.handlers.handle(record)
            await self._consumer.commit(offset)
        finally:
            self._idle.set()
        return offset

    async def _rewind_if_older(self, offset: Offset) -> Offset:
        """Go back if the whole stream is older than our offset, and unknown to us.

        That takes a server that has forgotten everything, a publisher that has as well, and a clock
        that was set back: otherwise lives only grow.
        """
        newest = await self.stream.newest()
        if newest is None or newest.id >= offset.last or offset.includes(newest.id):
            return offset
        for record in await self.stream.read(EventId(newest.id.life, 0), 1):
            await self.handlers.report(EventsLost(count=None), before=record.id)
            offset = offset.rewind(record.id)
            await self._consumer.commit(offset)
        return offset

    async def _wait_until_woken(self) -> bool:
        """Return True when woken, and False when it is time to read anyway."""
        try:
            async with asyncio.timeout(_POLL_INTERVAL):
                return await self._woken.wait()
        except TimeoutError:
            return False


@dataclass(frozen=True, slots=True)
class _Handler:
    event_type: type[Event]
    function: Callable[[Any], Awaitable[None]]


class Handlers:
    """The functions that handle the events of one publisher."""

    def __init__(
        self, publisher: str, *, is_transient: Callable[[Exception], bool], timeout: float
    ) -> None:
        """Make an empty set.

        Args:
            publisher: whose events are handled.
            is_transient: says which errors are tried again without end; others are three times.
            timeout: the longest that one attempt may take, in seconds.
        """
        self._publisher = publisher
        self._is_transient = is_transient
        self._timeout = timeout
        self._by_name: dict[str, list[_Handler]] = {}

    def add(self, event_type: type[Event], function: Callable[[Any], Awaitable[None]]) -> None:
        self._by_name.setdefault(event_type.event_name, []).append(_Handler(event_type, function))

    async def handle(self, record: Record) -> None:
        """Have an event handled. One that cannot be handled is skipped, and raises nothing."""
        handlers = self._by_name.get(record.name, [])
        if record.name == EventsLost.event_name:  # its publisher had no room for them
            self._count_lost(record.data.decode(errors="replace"), record.id)
        elif not handlers:
            self._count("unknown")
        for handler in handlers:
            try:
                event = handler.event_type.model_validate_json(record.data)
            except ValidationError as error:
                self._count("invalid")
                log.error("events.invalid", **self._where(record.name, record.id), error=str(error))
            else:
                await self._attempt(handler, event, record.id)
        if record.published:  # not by hand
            lag = max(0.0, time() - record.published)
            metrics.lag_seconds.labels(self._publisher).observe(lag)

    async def report(self, lost: EventsLost, *, before: EventId) -> None:
        """Tell subscribers that events right before that one are gone."""
        self._count_lost(lost.model_dump_json(), before)
        for handler in self._by_name.get(EventsLost.event_name, []):
            await self._attempt(handler, lost, before)

    async def _attempt(self, handler: _Handler, event: Event, id_: EventId) -> None:
        failures, attempts, backoff = 0, 0, _FIRST_BACKOFF
        where = self._where(event.event_name, id_)
        while True:
            attempts += 1
            try:
                async with asyncio.timeout(self._timeout) as limit:
                    await handler.function(event)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError):
                    if _is_cancelled():
                        raise
                    failures += 1  # something that the handler waited for was cancelled
                else:
                    failures += limit.expired() or not self._is_transient(error)
                if failures >= _ATTEMPTS:
                    self._count("failed")
                    log.exception("events.failed", **where, exc_info=error)
                    return
                self._count("retried")
                if attempts == 1:  # an outage would fill the log
                    log.warning("events.retried", **where, error=repr(error))
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, _MAX_BACKOFF)
            else:
                self._count("ok")
                if attempts > 1:
                    log.info("events.recovered", **where, attempts=attempts)
                return

    def _count(self, outcome: str) -> None:
        metrics.handled.labels(self._publisher, outcome).inc()

    def _count_lost(self, what: str, before: EventId) -> None:
        metrics.lost.labels(self._publisher).inc()
        log.error("events.lost", publisher=self._publisher, before=str(before), what=what)

    def _where(self, name: str, id_: EventId) -> dict[str, str]:
        return {"publisher": self._publisher, "name": name, "id": str(id_)}


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
