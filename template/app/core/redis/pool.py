"""Connections, and the bounded pools that hand them out in order.

All connections of one client share what they find out: that a server or a proxy has no CLIENT
SETNAME (they have no name then), and that the server was demoted. A demoted primary keeps its
connections open and answers READONLY for ever, so they are replaced: the same name may lead to the
new primary by now.

A pool serves its waiters in order. redis-py's `BlockingConnectionPool` wakes the
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


class ClientState:
    """What the connections of one client have found out about their server."""

    def __init__(self, client_name: str, refusals: Refusals) -> None:
        self.client_name: str | None = client_name
        self.refusals = refusals
        self.outdated_before = 0.0
        """Connections that were made before this moment (monotonic) are replaced."""
        self.on_connect: Callable[[AbstractConnection], Awaitable[None]] | None = None
        """Is called with each new connection before it is used; an error ends the connection."""
        self._name = client_name

    def note_demotion(self) -> None:
        """Have the connections replaced: the server refuses writes."""
        now = monotonic()
        if now - self.outdated_before >= _RECONNECT_AFTER:
            self.outdated_before = now

    def drop_client_name(self, name: str | None, error: ResponseError) -> bool:
        """Connect without a name from now on; False if `name` was not what the server refused."""
        if name is None or not is_refusal(error):
            return False
        if self.client_name is not None:  # of connections that are made at once, the first says so
            self.client_name = None
            log.warning(
                "redis.feature_missing",
                client=self._name,
                what="CLIENT SETNAME: CLIENT LIST shows no names for this client",
                error=str(error),
            )
        return True


class _Parser(DefaultParser):  # type: ignore[valid-type,misc]  # a variable of redis-py
    """Passes every error through the connection."""

    on_error: Callable[[RedisError], RedisError]

    def parse_error(self, response: str) -> RedisError:
        error: RedisError = super().parse_error(response)
        return self.on_error(error)


class TrackedConnection(AbstractConnection):
    """A connection that shares what it finds out with the others of its client."""

    def __init__(self, *, state: ClientState, **kwargs: Any) -> None:
        super().__init__(parser_class=_Parser, **kwargs)
        assert isinstance(self._parser, _Parser)
        self._parser.on_error = self._note_error
        self._state = state
        self._is_ready = False
        self._made = 0.0

    @property
    def is_outdated(self) -> bool:
        """Whether its server has been demoted since it was made."""
        return self._made < self._state.outdated_before

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        self._is_ready = False
        self._made = monotonic()
        try:
            while True:
                self.client_name = self._state.client_name
                try:
                    await super().on_connect_check_health(check_health)
                except ResponseError as error:
                    if not self._state.drop_client_name(self.client_name, error):
                        raise
                else:
                    break
            if self._state.on_connect is not None:
                await self._state.on_connect(self)
        except RedisError as error:
            self._state.refusals.note(error)
            raise
        self._is_ready = True

    def _note_error(self, error: RedisError) -> RedisError:
        if reply_code(error) == "READONLY":
            self._state.note_demotion()
            if not isinstance(error, ReadOnlyError):  # a script before Redis 7 hides it
                error = ReadOnlyError(str(error), status_code="READONLY")
        if self._is_ready:
            self._state.refusals.note(error)
        return error


class PlainConnection(TrackedConnection, Connection):
    """A connection to one server."""


class TlsConnection(TrackedConnection, SSLConnection):
    """A connection to one server, over TLS."""


class SentinelConnection(TrackedConnection, SentinelManagedConnection):
    """A connection to the primary, as the sentinels name it."""


class SentinelTlsConnection(TrackedConnection, SentinelManagedSSLConnection):
    """A connection to the primary, as the sentinels name it, over TLS."""


class PoolTimeout(RedisConnectionError):
    """No connection of a pool came free in time."""


class FairSlots:
    """The right to use one of `size` connections, granted in the order of the requests."""

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
        """Whether the next caller has to wait."""
        return self._free.locked()

    def release(self) -> None:
        """Return a slot."""
        self._free.release()


class FairPool(ConnectionPool):
    """A pool of connections to one server, with `FairSlots` in front of it."""

    def __init__(self, *, slots: FairSlots, **kwargs: Any) -> None:
        super().__init__(max_connections=slots.size, **kwargs)
        self.state: ClientState | None = kwargs.get("state")
        self._slots = slots
        self._connections = current().connections
        self._served: set[asyncio.Task[Any] | None] = set()

    @property
    def is_exhausted(self) -> bool:
        """Whether the next caller has to wait."""
        return self._slots.is_exhausted

    def get_available_connection(self) -> AbstractConnection:
        connection: AbstractConnection = super().get_available_connection()  # type: ignore[no-untyped-call]  # redis-py
        self._served.add(asyncio.current_task())
        return connection

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        await self._slots.acquire()
        idle = self._available_connections
        if idle and not _is_outdated(idle[-1]) and self._connections.is_ready(self, idle[-1]):
            self._in_use_connections.add(idle[-1])
            return idle.pop()
        task = asyncio.current_task()
        try:
            connection: AbstractConnection = await super().get_connection()  # type: ignore[no-untyped-call]  # redis-py
        except BaseException:
            # Once it has a connection, the base class returns it through release(), and the slot
            # with it. If it failed before that, the slot is still ours to return.
            if task not in self._served:
                self._slots.release()
            raise
        finally:
            self._served.discard(task)
        return connection

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        # redis-py checks for EOF only, which a connection that was reset does not have.
        if connection.is_connected and (
            _is_outdated(connection) or self._connections.is_closing(connection)
        ):
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)

    async def release(self, connection: AbstractConnection) -> None:
        try:
            if self._connections.may_rest(self, connection):
                self._in_use_connections.remove(connection)
                self._available_connections.append(connection)
            else:
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


def _is_outdated(connection: AbstractConnection) -> bool:
    return isinstance(connection, TrackedConnection) and connection.is_outdated


class FairSentinelPool(FairPool, SentinelConnectionPool):
    """A fair pool of connections to the primary, as the sentinels name it."""

    async def release(self, connection: Any) -> None:
        # After a failover, redis-py closes only the connections that are idle at that moment.
        if self.master_address not in (None, (connection.host, connection.port)):
            connection.mark_for_reconnect()
        await super().release(connection)

    async def aclose(self) -> None:
        await super().aclose()
        for sentinel in self.sentinel_manager.sentinels:  # which redis-py leaves connected
            await sentinel.aclose()
