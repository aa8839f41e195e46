"""Which processes of a service consume a stream, and from which offset.

With `ExclusiveConsumer` one process of a service does. What it has handled is kept in Redis, so
another process, or the next start, goes on from there. With `BroadcastConsumer` every process does,
from its own start on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from secrets import token_hex
from time import monotonic, time
from typing import Any, Protocol

from redis.exceptions import RedisError

from app.core.events.stream import NONE, Offset, Stream, key_of
from app.core.redis import RedisClient, Script
from app.core.tasks import Tasks

# KEYS: offset. ARGV: where to begin. Answers with the offset.
_BEGIN = Script("""
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
""")
# KEYS: owner, offset. ARGV: token, ttl in milliseconds. Answers with the offset.
_ACQUIRE = Script("""
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return false
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return redis.call('GET', KEYS[2]) or ''
""")
# KEYS: owner, offset. ARGV: token, offset. Answers with 1, or the owner: '' for nobody.
_COMMIT = Script("""
local owner = redis.call('GET', KEYS[1])
if owner ~= ARGV[1] then
  return owner or ''
end
redis.call('SET', KEYS[2], ARGV[2])
return 1
""")
# KEYS: owner. ARGV: token.
_RELEASE = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
""")


class OwnershipLost(Exception):
    """Another process consumes the stream now, or may: ours could not be renewed in time."""


class Consumer(Protocol):
    """The right to consume a stream, and the offset up to which it has been handled."""

    started_late: bool
    """Whether it had to begin after events that it should have begun with."""

    async def begin(self) -> None:
        """Begin after what is published by now, unless there is an offset already.

        Raises:
            RedisError, OSError: Redis does not answer.
        """

    def ownership(self) -> AbstractAsyncContextManager[Offset]:
        """Wait for the right, keep it during the block, and yield the offset to go on from.

        Raises:
            OwnershipLost: from the block, which is cancelled when the right could not be kept.
            RedisError, OSError: Redis does not answer.
        """

    async def commit(self, offset: Offset) -> None:
        """Store that everything up to `offset` is handled.

        Raises:
            OwnershipLost: another process goes on from an earlier offset.
            RedisError, OSError: Redis does not answer; the next commit stores this one, too.
        """

    async def flush(self) -> None:
        """Store what could not be stored yet, unless another process has gone on from there.

        Raises:
            RedisError, OSError: Redis does not answer.
        """


class BroadcastConsumer:
    """Consumes in every process, from the moment at which it begins."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._offset: Offset | None = None
        self._started_at: float | None = None
        self.started_late = False

    async def begin(self) -> None:
        if self._offset is None:
            is_first = self._started_at is None
            self._started_at = self._started_at or time()
            newest = await self._stream.newest()
            self._offset = Offset((newest.id if newest else NONE,))
            # Redis was away until now, and has received events before we could look.
            self.started_late = (
                not is_first and newest is not None and newest.published > self._started_at
            )

    @asynccontextmanager
    async def ownership(self) -> AsyncIterator[Offset]:
        await self.begin()
        assert self._offset is not None
        yield self._offset

    async def commit(self, offset: Offset) -> None:
        self._offset = offset

    async def flush(self) -> None:
        return  # the offset ends with the process


class ExclusiveConsumer:
    """Consumes in one process of the service at a time; the others stand by.

    A server may forget the offset, or how far it had come. Every process remembers what it has seen
    of it, and the last owner remembers best.
    """

    def __init__(
        self, client: RedisClient, stream: Stream, service: str, *, ttl: float = 10.0
    ) -> None:
        """Make one of the processes of `service`.

        Args:
            client: stays the caller's.
            stream: what is consumed.
            service: who consumes it.
            ttl: seconds until another process goes on for one that has died; one that ends is
                replaced at once.
        """
        self._client = client
        self._stream = stream
        self._keys = (
            key_of(stream.publisher, "owner", service=service),
            key_of(stream.publisher, "offset", service=service),
        )
        self._ttl = ttl
        self._token = ""
        self._handled: Offset | None = None
        self._committed: Offset | None = None
        self._was_owner = False
        self.started_late = False  # its service's offset is in Redis

    async def begin(self) -> None:
        if self._handled is None:
            # Not in __init__: processes that are forked from this one must not share the token.
            self._token = token_hex(16)
            start = str(await self._stream.initial_offset())
            self._handled = Offset.parse(await _BEGIN.run(self._client, self._keys[1:], (start,)))

    @asynccontextmanager
    async def ownership(self) -> AsyncIterator[Offset]:
        await self.begin()
        asked_at = await self._wait_for_ownership()
        assert self._handled is not None
        try:
            async with asyncio.timeout(self._seconds_left(asked_at)) as deadline:
                renewal = Tasks()
                renewal.start(self._renew(deadline))
                try:
                    yield self._handled
                finally:
                    await renewal.stop()
        except TimeoutError:
            if deadline.expired():
                raise OwnershipLost from None
            raise  # of what the block did
        finally:
            with suppress(RedisError, OSError):  # otherwise it expires
                await self._release()

    async def commit(self, offset: Offset) -> None:
        self._handled = offset
        committed = await _COMMIT.run(self._client, self._keys, (self._token, str(offset)))
        if committed != 1:
            self._was_owner = not committed  # it expired, or was forgotten
            raise OwnershipLost
        self._committed = offset

    async def flush(self) -> None:
        if self._handled != self._committed:
            with suppress(OwnershipLost):
                if await self._acquire():  # which commits
                    await self._release()

    async def _wait_for_ownership(self) -> float:
        """Wait until the stream is ours; return when that was asked for, by `monotonic`."""
        while True:
            if not self._was_owner:
                committed: Any = await self._client.get(self._keys[1])
                if not self._adopt(committed):
                    await asyncio.sleep(self._ttl)  # the last owner comes back first, if it lives
            asked_at = monotonic()
            if await self._acquire():
                return asked_at
            await asyncio.sleep(self._ttl / 10)

    async def _acquire(self) -> bool:
        """Become or stay the owner; False if another process is."""
        arguments = (self._token, round(self._ttl * 1000))
        committed = await _ACQUIRE.run(self._client, self._keys, arguments)
        self._was_owner = committed is not None
        if self._was_owner and not self._adopt(committed):
            # We have handled more than could be committed, or than the server remembers.
            assert self._handled is not None
            await self.commit(self._handled)
        return self._was_owner

    async def _release(self) -> None:
        await _RELEASE.run(self._client, self._keys[:1], (self._token,))

    def _adopt(self, committed: bytes | None) -> bool:
        """Take over the offset in Redis, unless it is behind ours; False then."""
        assert self._handled is not None
        offset = Offset.parse(committed) if committed else None
        if offset is None or offset.last < self._handled.last:
            return False
        self._handled = self._committed = offset
        return True

    async def _renew(self, deadline: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._ttl / 3)
            asked_at = monotonic()
            try:
                is_owner = await self._acquire()
            except (RedisError, OSError):
                continue  # the deadline ends the block if this goes on
            except OwnershipLost:
                is_owner = False
            deadline.reschedule(loop.time() + (self._seconds_left(asked_at) if is_owner else 0))
            if not is_owner:
                return

    def _seconds_left(self, asked_at: float) -> float:
        """Return for how long the ownership that was asked for then is surely ours."""
        return self._ttl * 0.9 - (monotonic() - asked_at)
