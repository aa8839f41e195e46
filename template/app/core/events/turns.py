"""Who of several processes handles a stream, and from where.

With `SharedTurn` one process of a service does, and what it has handled is kept in Redis: another
one, or the next start, goes on from there. With `OwnTurn` every process does, from now on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from secrets import token_hex
from time import monotonic, time
from typing import Any, Protocol

from redis.exceptions import RedisError

from app.core.events import keys
from app.core.events.position import NONE, Position
from app.core.events.stream import Stream
from app.core.redis import RedisClient, Script

# KEYS: position. ARGV: where to begin
_BEGIN = Script("""
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
""")
# KEYS: turn, position. ARGV: token, ttl in milliseconds. Answers with the position.
_TAKE = Script("""
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return false
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return redis.call('GET', KEYS[2]) or ''
""")
# ARGV: token, position. Answers with 1, or who has the turn: '' for nobody.
_SAVE = Script("""
local holder = redis.call('GET', KEYS[1])
if holder ~= ARGV[1] then
  return holder or ''
end
redis.call('SET', KEYS[2], ARGV[2])
return 1
""")
_GIVE_BACK = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
""")


class TurnLost(Exception):
    """Another process handles the stream now."""


class Turn(Protocol):
    """The right to handle a stream, and up to where it has been handled."""

    is_late: bool
    """Whether it had to begin after events that it should have begun with."""

    async def begin(self) -> None:
        """Where nothing was handled yet, begin after what is published by now.

        Raises:
            RedisError, OSError: Redis does not answer.
        """

    def held(self) -> AbstractAsyncContextManager[Position]:
        """Wait for the right, and keep it for the time of the block; yields where to go on.

        Raises:
            RedisError, OSError: Redis does not answer.
            TimeoutError: in the block, when the right could not be kept.
        """

    async def finish(self) -> None:
        """Save what is handled and could not be saved, if nobody else has gone on from there.

        Raises:
            RedisError, OSError: Redis does not answer.
        """

    async def save(self, position: Position) -> None:
        """Everything up to here is handled.

        Raises:
            TurnLost: somebody else goes on from an earlier place.
            RedisError, OSError: Redis does not answer; the position is saved with the next one.
        """


class OwnTurn:
    """Every process for itself, from the moment at which it begins."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._position: Position | None = None
        self._started: float | None = None
        self.is_late = False

    async def begin(self) -> None:
        if self._position is None:
            is_first = self._started is None
            self._started = self._started or time()
            newest = await self._stream.newest()
            self._position = Position((newest.id if newest else NONE,))
            # Redis was away until now, and has been sent events before we could look.
            self.is_late = not is_first and newest is not None and newest.published > self._started

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Position]:
        await self.begin()
        assert self._position is not None
        yield self._position

    async def finish(self) -> None:
        return  # it dies with the process

    async def save(self, position: Position) -> None:
        self._position = position


class SharedTurn:
    """One process of the service at a time; the others stand by.

    A server may forget the position, or how far it had come. Every process remembers what it has
    seen of it, and the one whose turn it was remembers best.
    """

    def __init__(
        self, client: RedisClient, stream: Stream, subscriber: str, *, ttl: float = 10.0
    ) -> None:
        """A process that dies is replaced after `ttl` seconds; one that ends, at once."""
        self._client = client
        self._stream = stream
        names = (subscriber, stream.publisher)
        self._keys = (keys.turn(*names), keys.position(*names))
        self._ttl = ttl
        self._token = ""
        self._handled: Position | None = None
        self._saved: Position | None = None
        self._was_ours = False
        self.is_late = False  # its service's position is in Redis

    async def begin(self) -> None:
        if self._handled is None:
            # Not before the process has started: what it was forked from is none to be told apart.
            self._token = token_hex(16)
            start = str(await self._stream.start())
            self._handled = Position.parse(await _BEGIN.run(self._client, self._keys[1:], (start,)))

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Position]:
        await self.begin()
        asked = await self._wait_for_turn()
        assert self._handled is not None
        try:
            async with asyncio.timeout(self._left(asked)) as limit:
                renewal = asyncio.create_task(self._renew(limit))
                try:
                    yield self._handled
                finally:
                    renewal.cancel()
        finally:
            with suppress(RedisError, OSError):  # or it runs out by itself
                await self._give_back()

    async def finish(self) -> None:
        if self._handled != self._saved:
            with suppress(TurnLost):
                if await self._take():  # which saves it
                    await self._give_back()

    async def save(self, position: Position) -> None:
        self._handled = position
        saved = await _SAVE.run(self._client, self._keys, (self._token, str(position)))
        if saved != 1:
            self._was_ours = not saved  # it ran out, or was forgotten
            raise TurnLost
        self._saved = position

    async def _give_back(self) -> None:
        await _GIVE_BACK.run(self._client, self._keys[:1], (self._token,))

    async def _wait_for_turn(self) -> float:
        """Return when the turn was asked for that is ours now."""
        while True:
            if not self._was_ours:
                saved: Any = await self._client.get(self._keys[1])
                if not self._recall(saved):
                    await asyncio.sleep(self._ttl)  # whoever had it comes back first, if it lives
            asked = monotonic()
            if await self._take():
                return asked
            await asyncio.sleep(self._ttl / 10)

    async def _take(self) -> bool:
        """Take the turn, or keep it; False if it is somebody else's."""
        arguments = (self._token, round(self._ttl * 1000))
        saved = await _TAKE.run(self._client, self._keys, arguments)
        self._was_ours = saved is not None
        if self._was_ours and not self._recall(saved):
            # What we have handled may be further than what could be saved, or than what the server
            # remembers of it.
            assert self._handled is not None
            await self.save(self._handled)
        return self._was_ours

    def _recall(self, saved: bytes | None) -> bool:
        """Whether the position that is saved is not behind ours, which it then becomes."""
        assert self._handled is not None
        position = Position.parse(saved) if saved else None
        if position is None or position.last < self._handled.last:
            return False
        self._handled = self._saved = position
        return True

    async def _renew(self, limit: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._ttl / 3)
            asked = monotonic()
            try:
                kept = await self._take()
            except (RedisError, OSError):
                continue  # the limit ends the turn if this goes on
            except TurnLost:
                kept = False
            left = self._left(asked) if kept else 0
            limit.reschedule(loop.time() + left)
            if not kept:
                return

    def _left(self, asked: float) -> float:
        """Seconds for which a turn that was asked for at `asked` is surely ours."""
        return self._ttl * 0.9 - (monotonic() - asked)
