"""Events on their way to Redis: in order, each once, and through an outage.

One task sends what has been collected since its last attempt, in one round trip. An attempt whose
reply was lost is repeated as it was, and the server knows it by its number.
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from secrets import token_hex

import structlog
from redis.exceptions import RedisError

from app.core.events import metrics
from app.core.events.event import Event
from app.core.events.stream import Stream

log = structlog.get_logger(__name__)

_BATCH = 100
_PAUSE = 0.25


class EventsUnavailable(Exception):
    """An event is not known to be in Redis."""


@dataclass(slots=True, eq=False)
class _Letter:
    name: str
    data: str
    sent: "asyncio.Future[None]"


class Outbox:
    """Keeps at most `limit` events while Redis is away; it is the memory of this process."""

    def __init__(self, stream: Stream, *, length: int, limit: int) -> None:
        """`length` is how many events the stream keeps."""
        self._stream = stream
        self._length = length
        self._limit = limit
        self._letters: deque[_Letter] = deque()
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._sender = token_hex(8)
        self._batch = 0
        self.is_reachable = True

    def __len__(self) -> int:
        return len(self._letters)

    async def put(self, event: Event, *, strict: bool) -> None:
        """Send an event soon; returns when Redis has it, or is known to be away.

        Raises:
            EventsUnavailable: with `strict`, if it is not known to have arrived. Unless there was
                no room for it, it is still sent as soon as Redis is back.
        """
        metrics.expect_event(event.event_name)
        if len(self._letters) >= self._limit:
            metrics.published.labels(event.event_name, "dropped").inc()
            log.error("events.dropped", published=event.event_name, waiting=len(self._letters))
            if strict:
                raise EventsUnavailable(f"{len(self._letters)} events wait for Redis already")
            return
        sent = asyncio.get_running_loop().create_future()
        self._letters.append(_Letter(event.event_name, event.model_dump_json(), sent))
        metrics.waiting.set(len(self._letters))
        self._filled.set()
        self._empty.clear()
        if not self.is_reachable and not strict:
            return  # it is sent when Redis is back, and nobody need wait for that
        try:
            await asyncio.shield(sent)
        except EventsUnavailable:
            if strict:
                raise

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._filled.wait()
            await self._send()

    async def drain(self, patience: float) -> None:
        """Wait until everything is sent, for `patience` seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._empty.wait()

    def close(self) -> None:
        """Tell those who still wait that nobody sends any more."""
        if self._letters:
            log.error("events.lost", waiting=len(self._letters))
        self._tell_who_waits("the service ends")

    async def _send(self) -> None:
        letters = list(islice(self._letters, _BATCH))
        self._batch += 1
        while True:
            try:
                await self._stream.append(
                    [(letter.name, letter.data) for letter in letters],
                    sender=self._sender,
                    number=self._batch,
                    length=self._length,
                )
            except (RedisError, OSError) as error:
                if self.is_reachable:
                    log.warning("events.unsent", waiting=len(self._letters), error=str(error))
                self.is_reachable = False
                self._tell_who_waits(str(error))
                await asyncio.sleep(_PAUSE)
            else:
                break
        self.is_reachable = True
        for letter in letters:
            self._letters.popleft()
            metrics.published.labels(letter.name, "sent").inc()
            if not letter.sent.done():
                letter.sent.set_result(None)
        metrics.waiting.set(len(self._letters))
        if not self._letters:
            self._filled.clear()
            self._empty.set()

    def _tell_who_waits(self, why: str) -> None:
        for letter in self._letters:
            if not letter.sent.done():
                letter.sent.set_exception(EventsUnavailable(why))
                letter.sent.exception()  # it may be that nobody waits any more
