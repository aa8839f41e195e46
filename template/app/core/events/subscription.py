"""One process that follows the stream of one publisher.

It always reads on from the last event that was handled, so nothing is lost or taken twice whatever
happens to connections: what wakes it only says that reading is worth while now. At most one batch
is in memory, however far behind it is.
"""

import asyncio
from contextlib import suppress

import structlog
from redis.exceptions import RedisError

from app.core.events.handling import Handlers
from app.core.events.stream import Position, Record, Stream
from app.core.events.turns import Turn, TurnLost
from app.core.redis import stop_tasks

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
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self.error: str | None = None
        """Why nothing can be read at the moment."""

    def wake(self) -> None:
        """There may be something to read."""
        self._woken.set()

    async def start(self) -> None:
        """Have a place in the stream before the service serves, if Redis answers, and follow it."""
        with suppress(RedisError, OSError):
            await self._turn.begin()
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
                    self.error = None
                    await self._follow(position)
            except TurnLost:
                log.info("events.turn_lost", publisher=self.stream.publisher)
            except (RedisError, OSError, TimeoutError) as error:
                if self.error is None:
                    log.warning(
                        "events.unreadable", publisher=self.stream.publisher, error=str(error)
                    )
                self.error = str(error) or repr(error)
                await asyncio.sleep(_PAUSE)

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
            records = await self.stream.read(position, _BATCH)
            for record in records:
                if self._stopping:
                    return
                await self._take(position, record)
                position = record.position
            if len(records) < _BATCH:
                await self._sleep()

    async def _take(self, position: Position, record: Record) -> None:
        self._idle.clear()
        try:
            await self._look_for_gap(position, record)
            await self.handlers.take(record)
            await self._turn.save(record.position)
        finally:
            self._idle.set()

    async def _look_for_gap(self, position: Position, record: Record) -> None:
        expected, number = position.number + 1, record.position.number
        if number != expected:
            await self.handlers.missed(record, number - expected if number > expected else None)

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_AGAIN):
                await self._woken.wait()
        except TimeoutError:
            return
