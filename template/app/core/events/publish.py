"""Events on their way to Redis: in order, each once, and through an outage.

One task sends what has been collected since its last attempt, in one round trip. If a reply is
lost, the same batch is sent again, and the server recognizes it by its number.
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from secrets import token_hex

import structlog

from app.core.events import metrics
from app.core.events.event import Event, EventsLost
from app.core.events.stream import NONE, Stream
from app.core.redis import OutageLog

log = structlog.get_logger(__name__)

_BATCH = 100
_RETRY_PAUSE = 0.25
"""Seconds between two attempts to send a batch."""


class EventsUnavailable(Exception):
    """An event is not known to be in Redis, or events cannot be read."""


@dataclass(slots=True, eq=False)
class _Pending:
    """An event that Redis does not have yet, or those for which there was no room."""

    sent: "asyncio.Future[None]"
    name: str = EventsLost.event_name
    data: str = ""
    dropped: int = 0
    """How many events it stands for, for which there was no room."""

    def content(self) -> tuple[str, str]:
        data = EventsLost(count=self.dropped).model_dump_json() if self.dropped else self.data
        return self.name, data


class PublishBuffer:
    """Keeps events until Redis has them. It is in memory, and ends with the process."""

    def __init__(self, stream: Stream, *, max_length: int, limit: int) -> None:
        """Make an empty buffer.

        Args:
            stream: where the events go.
            max_length: how many events the stream keeps.
            limit: how many events the buffer keeps.
        """
        self._stream = stream
        self._max_length = max_length
        self._limit = limit
        self._pending: deque[_Pending] = deque()
        self._events = 0
        """How many of the pending ones are events."""
        self._in_flight = 0
        """How many of the pending ones are being sent, and must not change any more."""
        self._is_overflowing = False
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._newest = NONE
        self._outage = OutageLog("events.sending")
        self.error: str | None = None
        """Why nothing can be sent at the moment."""

    def __len__(self) -> int:
        return self._events

    async def put(self, event: Event, *, strict: bool) -> None:
        """Have an event sent; return when Redis has it, or is known to be away.

        An event for which there is no room is dropped; subscribers are told how many were.

        Raises:
            EventsUnavailable: with `strict`, if the event is not known to have arrived. It is still
                sent when Redis is back, unless there was no room for it.
        """
        metrics.expect_event(event.event_name)
        if self._events >= self._limit:
            metrics.published.labels(event.event_name, "dropped").inc()
            if strict:
                raise EventsUnavailable(f"{self._events} events wait for Redis already")
            return self._drop()
        sent = asyncio.get_running_loop().create_future()
        self._append(_Pending(sent, event.event_name, event.model_dump_json()))
        if self.error is not None and not strict:
            return None  # it is sent when Redis is back, and nobody need wait for that
        try:
            await asyncio.shield(sent)
        except EventsUnavailable:
            if strict:
                raise
        return None

    async def run(self) -> None:
        """Send until cancelled."""
        # Not in __init__: processes that are forked from this one must not share the name.
        sender = token_hex(8)
        await self._send(sender, 1)  # nothing, but it finds out whether the server permits it
        for number in count(2):
            await self._filled.wait()
            await self._send(sender, number)

    async def drain(self, grace: float) -> None:
        """Wait until everything is sent, for `grace` seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._empty.wait()

    def close(self) -> None:
        """Tell those who still wait that nothing is sent any more."""
        if self._pending:
            log.error("events.not_sent", waiting=len(self))
        self._fail_waiting("the service ends")

    def _append(self, pending: _Pending) -> None:
        self._pending.append(pending)
        self._events += not pending.dropped
        metrics.waiting.set(self._events)
        self._filled.set()
        self._empty.clear()

    def _drop(self) -> None:
        if len(self._pending) > self._in_flight and self._pending[-1].dropped:
            self._pending[-1].dropped += 1
            return
        self._append(_Pending(asyncio.get_running_loop().create_future(), dropped=1))
        if not self._is_overflowing:
            log.error("events.dropped", waiting=len(self), why=self.error)
        self._is_overflowing = True

    async def _send(self, sender: str, number: int) -> None:
        sending = list(islice(self._pending, _BATCH))
        self._in_flight = len(sending)
        batch = [pending.content() for pending in sending]
        while True:
            try:
                newest = await self._stream.append(
                    batch,
                    sender=sender,
                    number=number,
                    known=self._newest,
                    max_length=self._max_length,
                )
            except Exception as error:  # without this task nothing is published any more
                self._outage.lost(error)
                self.error = str(error) or repr(error)
                self._fail_waiting(self.error)
                await asyncio.sleep(_RETRY_PAUSE)
            else:
                break
        self._newest = max(self._newest, newest)
        self._outage.back()
        self.error = None
        for pending in sending:
            self._pending.popleft()
            if not pending.dropped:
                self._events -= 1
                metrics.published.labels(pending.name, "sent").inc()
            if not pending.sent.done():
                pending.sent.set_result(None)
        self._in_flight = 0
        metrics.waiting.set(self._events)
        if not self._pending:
            self._is_overflowing = False
            self._filled.clear()
            self._empty.set()

    def _fail_waiting(self, why: str) -> None:
        for pending in self._pending:
            if not pending.sent.done():
                pending.sent.set_exception(EventsUnavailable(why))
                pending.sent.exception()  # maybe nobody waits any more
