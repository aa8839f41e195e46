"""A bounded connection pool that is fair to its waiters.

redis-py's `BlockingConnectionPool` wakes the newest waiter first, so under load the oldest starve,
and on CPython up to 3.12 a cancelled waiter can take a wake-up with it. `asyncio.Semaphore` queues
first in, first out, and gives a cancelled waiter's turn to the next one.
"""

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.redis.connection import Learned, LearningConnection


def stream_of(connection: AbstractConnection) -> asyncio.StreamWriter | None:
    """What a connection writes to, if there is one; redis-py does not promise how to get at it."""
    writer = getattr(connection, "_writer", None)
    return writer if isinstance(writer, asyncio.StreamWriter) else None


class PoolTimeout(RedisConnectionError):
    """Every connection of a pool stayed busy for as long as the caller was ready to wait."""


class FairSlots:
    """The right to use one of `size` connections, granted in the order it was asked for."""

    def __init__(self, *, name: str, size: int, timeout: float) -> None:
        """`timeout` is in seconds."""
        self.name = name
        self.size = size
        self.timeout = timeout
        self._free = asyncio.Semaphore(size)

    async def acquire(self) -> None:
        """Take a slot.

        Raises:
            PoolTimeout: none came free in time.
        """
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(self.timeout):
                await self._free.acquire()
        except TimeoutError:
            raise PoolTimeout(
                f"all {self.size} connections of the pool {self.name!r} were busy for "
                f"{self.timeout} s: raise its size, or look for what holds them"
            ) from None

    @property
    def is_exhausted(self) -> bool:
        """Whether the next one has to wait."""
        return self._free.locked()

    def release(self) -> None:
        """Give a slot back."""
        self._free.release()


class FairCheckout(ConnectionPool):
    """Puts `FairSlots` in front of a redis-py pool."""

    def __init__(self, *, slots: FairSlots, **kwargs: Any) -> None:
        super().__init__(max_connections=slots.size, **kwargs)
        self.learned: Learned | None = kwargs.get("learned")
        self._slots = slots
        self._served: set[asyncio.Task[Any] | None] = set()

    @property
    def is_exhausted(self) -> bool:
        """Whether the next one has to wait."""
        return self._slots.is_exhausted

    def get_available_connection(self) -> AbstractConnection:
        connection: AbstractConnection = super().get_available_connection()  # type: ignore[no-untyped-call]  # redis-py
        self._served.add(asyncio.current_task())
        return connection

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        await self._slots.acquire()
        task = asyncio.current_task()
        try:
            connection: AbstractConnection = await super().get_connection()  # type: ignore[no-untyped-call]  # redis-py
        except BaseException:
            # Once a connection was taken the base class hands it back through release(), and the
            # slot with it; if it failed before that, the slot is still ours to return.
            if task not in self._served:
                self._slots.release()
            raise
        finally:
            self._served.discard(task)
        return connection

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        # redis-py looks for the end of what was sent, which a connection that was reset has not.
        writer = stream_of(connection)
        is_outdated = isinstance(connection, LearningConnection) and connection.is_outdated
        if writer is not None and (is_outdated or writer.is_closing()):
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)

    async def release(self, connection: AbstractConnection) -> None:
        try:
            await super().release(connection)
        except asyncio.CancelledError:
            # The base class was still waiting for its lock: it would count the connection as in
            # use for good, and the pool would shrink.
            if connection in self._in_use_connections:
                self._in_use_connections.remove(connection)
                self._available_connections.append(connection)
            raise
        finally:
            self._slots.release()


class FairPool(FairCheckout):
    """A fair pool of connections to one server."""


class FairSentinelPool(FairCheckout, SentinelConnectionPool):
    """A fair pool of connections to whichever server the sentinels call the primary."""

    async def release(self, connection: Any) -> None:
        # When there is another one redis-py closes the connections that are idle at that moment.
        if self.master_address not in (None, (connection.host, connection.port)):
            connection.mark_for_reconnect()
        await super().release(connection)
