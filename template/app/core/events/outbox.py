"""Events on their way to Redis: in order, each once, and through an outage.

One task sends what has been collected since its last attempt, in one round trip. An attempt whose
reply was lost is repeated as it was, and the server knows it by its number.
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from secrets import token_hex

import structlog

from app.core.events import metrics
from app.core.events.event import Event, Missed
from app.core.events.position import NONE
from app.core.events.stream import Stream
from app.core.redis import OutageLog

log = structlog.get_logger(__name__)

_BATCH = 100
_PAUSE = 0.25


class EventsUnavailable(Exception):
    """An event is not known to be in Redis."""


@dataclass(slots=True, eq=False)
class _Letter:
    sent: "asyncio.Future[None]"
    name: str = Missed.event_name
    data: str = ""
    dropped: int = 0
    """How many events it stands for, for which there was no room."""

    def content(self) -> tuple[str, str]:
        data = Missed(count=self.dropped).model_dump_json() if self.dropped else self.data
        return self.name, data


class Outbox:
    """Keeps at most `limit` events while Redis is away; it is the memory of this process."""

    def __init__(self, stream: Stream, *, length: int, limit: int) -> None:
        """`length` is how many events the stream keeps."""
        self._stream = stream
        self._length = length
        self._limit = limit
        self._letters: deque[_Letter] = deque()
        self._waiting = 0
        """How many of the letters are events."""
        self._under_way = 0
        """How many of the letters are, and may not change any more."""
        self._is_overflowing = False
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._known = NONE
        self._outage = OutageLog("events.sending")
        self.error: str | None = None
        """Why nothing can be sent at the moment."""

    def __len__(self) -> int:
        """How many events wait."""
        return self._waiting

    async def put(self, event: Event, *, strict: bool) -> None:
        """Send an event soon; returns when Redis has it, or is known to be away.

        An event for which there is no room is dropped, and subscribers are told how many were.

        Raises:
            EventsUnavailable: with `strict`, if it is not known to have arrived. Unless there was
                no room for it, it is still sent as soon as Redis is back.
        """
        metrics.expect_event(event.event_name)
        if self._waiting >= self._limit:
            metrics.published.labels(event.event_name, "dropped").inc()
            if strict:
                raise EventsUnavailable(f"{self._waiting} events wait for Redis already")
            return self._drop()
        sent = asyncio.get_running_loop().create_future()
        self._append(_Letter(sent, event.event_name, event.model_dump_json()))
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
        # Not before the process has started: Redis could not tell apart what was forked from one.
        sender = token_hex(8)
        await self._send(sender, 1)  # nothing, but it finds out whether we may
        for number in count(2):
            await self._filled.wait()
            await self._send(sender, number)

    async def drain(self, patience: float) -> None:
        """Wait until everything is sent, for `patience` seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._empty.wait()

    def close(self) -> None:
        """Tell those who still wait that nobody sends any more."""
        if self._letters:
            log.error("events.lost", waiting=len(self))
        self._tell_who_waits("the service ends")

    def _append(self, letter: _Letter) -> None:
        self._letters.append(letter)
        self._waiting += not letter.dropped
        metrics.waiting.set(self._waiting)
        self._filled.set()
        self._empty.clear()

    def _drop(self) -> None:
        if len(self._letters) > self._under_way and self._letters[-1].dropped:
            self._letters[-1].dropped += 1
            return
        self._append(_Letter(asyncio.get_running_loop().create_future(), dropped=1))
        if not self._is_overflowing:
            log.error("events.dropped", waiting=len(self), why=self.error)
        self._is_overflowing = True

    async def _send(self, sender: str, number: int) -> None:
        letters = list(islice(self._letters, _BATCH))
        self._under_way = len(letters)
        batch = [letter.content() for letter in letters]
        while True:
            try:
                newest = await self._stream.append(
                    batch, sender=sender, number=number, known=self._known, length=self._length
                )
            except Exception as error:  # without this task nobody publishes any more
                self._outage.lost(error)
                self.error = str(error) or repr(error)
                self._tell_who_waits(self.error)
                await asyncio.sleep(_PAUSE)
            else:
                break
        self._known = max(self._known, newest)
        self._outage.back()
        self.error = None
        for letter in letters:
            self._letters.popleft()
            if not letter.dropped:
                self._waiting -= 1
                metrics.published.labels(letter.name, "sent").inc()
            if not letter.sent.done():
                letter.sent.set_result(None)
        self._under_way = 0
        metrics.waiting.set(self._waiting)
        if not self._letters:
            self._is_overflowing = False
            self._filled.clear()
            self._empty.set()

    def _tell_who_waits(self, why: str) -> None:
        for letter in self._letters:
            if not letter.sent.done():
                letter.sent.set_exception(EventsUnavailable(why))
                letter.sent.exception()  # it may be that nobody waits any more
