"""One process that follows the stream of one publisher.

It always reads on from the last event that was handled, so nothing is lost or taken twice whatever
happens to connections: what wakes it only says that reading is worth while now, and what should be
there. At most one batch is in memory, however far behind it is.
"""

import asyncio
from contextlib import suppress

import structlog
from redis.exceptions import RedisError

from app.core.events.handling import Handlers
from app.core.events.position import NONE, EventId, Lost, Position, Record
from app.core.events.stream import Stream
from app.core.events.turns import Turn, TurnLost
from app.core.redis import OutageLog, stop_tasks

log = structlog.get_logger(__name__)

_BATCH = 100
_LOOK_AGAIN = 1.0
"""Seconds after which it reads without having been woken."""
_PAUSE = 0.25


class Subscription:
    """Reads, has it handled, and says so, until it is stopped."""

    def __init__(self, stream: Stream, handlers: Handlers, turn: Turn) -> None:
        self.stream = stream
        self.handlers = handlers
        self._turn = turn
        self._woken = asyncio.Event()
        self._heard = NONE
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._outage = OutageLog("events.reading", publisher=stream.publisher)
        self.error: str | None = None
        """Why nothing can be read at the moment."""

    def wake(self, newest: EventId = NONE) -> None:
        """There may be something to read, up to the event that was announced."""
        self._heard = max(self._heard, newest)
        self._woken.set()

    async def start(self) -> None:
        """Have a place in the stream before the service serves, if Redis answers, and follow it."""
        try:
            await self._turn.begin()
        except (RedisError, OSError) as error:
            self._failed(error)
        self._stopping = False
        self._task = asyncio.create_task(self._run())

    async def stop(self, patience: float) -> None:
        """End after the event that is being handled, or after `patience` seconds."""
        if self._task is None:
            return
        self._stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._idle.wait()
        await stop_tasks([self._task])
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._finish()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                async with self._turn.held() as position:
                    self._outage.back()
                    self.error = None
                    if self._turn.is_late:
                        await self.handlers.lost(Lost(None), before=position.last)
                        self._turn.is_late = False
                    await self._follow(position)
            except TurnLost:
                log.info("events.turn_lost", publisher=self.stream.publisher)
            except Exception as error:  # without this task nobody would handle anything any more
                self._failed(error)
                await asyncio.sleep(_PAUSE)

    def _failed(self, error: Exception) -> None:
        is_expected = isinstance(error, RedisError | OSError | TimeoutError)
        if self.error is None and not is_expected:
            log.error("events.reading_failed", publisher=self.stream.publisher, exc_info=error)
        self._outage.lost(error)
        self.error = str(error) or repr(error)

    async def _finish(self) -> None:
        """Save what was handled while it could not be saved, or it would come again."""
        while True:
            try:
                return await self._turn.finish()
            except (RedisError, OSError):
                await asyncio.sleep(_PAUSE)

    async def _follow(self, position: Position) -> None:
        while not self._stopping:
            self._woken.clear()
            records = await self.stream.read(position.last, _BATCH)
            for record in records:
                if self._stopping:
                    return
                position = await self._take(position, record)
            if len(records) < _BATCH and not await self._is_woken():
                position = await self._look_behind(position)

    async def _take(self, position: Position, record: Record) -> Position:
        self._idle.clear()
        try:
            position, lost = position.advance(record, heard=self._heard)
            if lost:
                await self.handlers.lost(lost, before=record.id)
            await self.handlers.take(record)
            await self._turn.save(position)
        finally:
            self._idle.set()
        return position

    async def _look_behind(self, position: Position) -> Position:
        """Go back if the stream begins and ends before our position, with what we do not know.

        That takes a server that has forgotten everything, a publisher that has too, and a clock
        that was set back: lives grow otherwise.
        """
        newest = await self.stream.newest()
        if newest is None or newest.id >= position.last or position.includes(newest.id):
            return position
        for record in await self.stream.read(EventId(newest.id.life, 0), 1):
            await self.handlers.lost(Lost(None), before=record.id)
            position = position.rewind(record.id)
            await self._turn.save(position)
        return position

    async def _is_woken(self) -> bool:
        """Wait until woken, or until it is time to look again; False then."""
        try:
            async with asyncio.timeout(_LOOK_AGAIN):
                return await self._woken.wait()
        except TimeoutError:
            return False
