"""Connections, and the pools that share them out fairly.

A connection goes without what its server or proxy does not have. All connections of one client
share what they learn: that there is no CLIENT SETNAME (then they have no name), and since when the
server is no longer the one that takes writes. A demoted primary keeps its connections open and
answers READONLY for ever, so they are made anew, by a name that may lead to the new primary by now.

A pool is bounded, and serves its waiters in order. redis-py's `BlockingConnectionPool` wakes the
newest waiter first, so under load the oldest starve, and on CPython up to 3.12 a cancelled waiter
can take a wake-up with it. `asyncio.Semaphore` queues first in, first out, and gives a cancelled
waiter's turn to the next one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import structlog
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    DefaultParser,
    SSLConnection,
)
from redis.asyncio.sentinel import (
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from app.core.implementations import current
from app.core.redis.outages import Refusals, is_refusal, reply_code

log = structlog.get_logger(__name__)

# A URL that names a replica answers READONLY to every write: connecting once a second is enough.
_RECONNECT_AFTER = 1.0


class Learned:
    """What the connections of one client know of their server."""

    def __init__(self, client_name: str, refusals: Refusals) -> None:
        self.client_name: str | None = client_name
        self.refusals = refusals
        self.outdated_before = 0.0
        """Connections that were made before this moment (monotonic) are not to be used again."""
        self.met: Callable[[AbstractConnection], Awaitable[None]] | None = None
        """Is given each new connection before anybody else; an error ends the connection."""
        self._who = client_name

    def demoted(self) -> None:
        """The server does not take writes: is there another one by now?"""
        now = monotonic()
        if now - self.outdated_before >= _RECONNECT_AFTER:
            self.outdated_before = now

    def go_without(self, error: ResponseError) -> bool:
        """Give up what the server refused while a connection was made; False if it is needed."""
        if self.client_name is None or not is_refusal(error):
            return False
        self.client_name = None
        log.warning(
            "redis.goes_without",
            client=self._who,
            what="CLIENT SETNAME: CLIENT LIST does not say which connections are this service's",
            error=str(error),
        )
        return True


class _Parser(DefaultParser):  # type: ignore[valid-type,misc]  # a variable of redis-py
    """Shows every error to the connection first."""

    understand: Callable[[RedisError], RedisError]

    def parse_error(self, response: str) -> RedisError:
        error: RedisError = super().parse_error(response)
        return self.understand(error)


class LearningConnection(AbstractConnection):
    """A connection that shares what it learns with the others of its client."""

    def __init__(self, *, learned: Learned, **kwargs: Any) -> None:
        super().__init__(parser_class=_Parser, **kwargs)
        assert isinstance(self._parser, _Parser)
        self._parser.understand = self._understand
        self._learned = learned
        self._is_ready = False
        self._made = 0.0

    @property
    def is_outdated(self) -> bool:
        """Whether it leads to a server that has been demoted since."""
        return self._made < self._learned.outdated_before

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        self._is_ready = False
        self._made = monotonic()
        try:
            while True:
                self.client_name = self._learned.client_name
                try:
                    await super().on_connect_check_health(check_health)
                except ResponseError as error:
                    if not self._learned.go_without(error):
                        raise
                else:
                    break
            if self._learned.met is not None:
                await self._learned.met(self)
        except RedisError as error:
            self._learned.refusals.note(error)
            raise
        self._is_ready = True

    def _understand(self, error: RedisError) -> RedisError:
        if reply_code(error) == "READONLY":
            self._learned.demoted()
            if not isinstance(error, ReadOnlyError):  # a script before Redis 7 hides it
                error = ReadOnlyError(str(error), status_code="READONLY")
        if self._is_ready:
            self._learned.refusals.note(error)
        return error


class PlainConnection(LearningConnection, Connection):
    """To one server."""


class TlsConnection(LearningConnection, SSLConnection):
    """To one server, over TLS."""


class SentinelConnection(LearningConnection, SentinelManagedConnection):
    """To whichever server the sentinels call the primary."""


class SentinelTlsConnection(LearningConnection, SentinelManagedSSLConnection):
    """To whichever server the sentinels call the primary, over TLS."""


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
        self._connections = current().connections
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
        is_outdated = isinstance(connection, LearningConnection) and connection.is_outdated
        if connection.is_connected and (is_outdated or self._connections.is_closing(connection)):
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
