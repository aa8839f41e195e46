"""Commands are written to Redis, and replies read, past the streams of redis-py.

asyncio's streams copy what comes three times and wake their reader for every piece of it, redis-py
waits for each write in a task of its own, and a pool calls some seventy functions each time that it
hands a connection out: for a batch of 30 values that is as much as all the rest. So whoever has
another command at once keeps the connection, what comes goes from the transport to the parser, and
a pool is told where there is nothing to look at. What
comes while nobody has asked, and the end, are left to redis-py, and so is making an error of what
the server says.

The stream that a connection writes to also tells at once that the connection has ended.
"""

import asyncio
import inspect
import math
from time import monotonic
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError
from redis.observability.providers import get_observability_instance

from app.core.implementations import Connections, PooledConnection
from app.core.redis.pool import FairPool

KNOWN = "8.1"
WITHOUT = "batches of reads and of commands take up to twice as long"

_MAX_SECONDS = 1.0
"""A connection goes back for a moment after so long: its pool may know of a new primary."""
_PARTIAL = object()
"""What the parser says of a reply that has not come as a whole."""


def is_known() -> bool:
    """Whether redis-py's connections have their stream and parser where they are known to be."""
    names = inspect.unwrap(AbstractConnection.__init__).__code__.co_names
    return {"_writer", "_parser"} <= set(names)


def stream_of(connection: AbstractConnection) -> asyncio.StreamWriter | None:
    """Return what a connection writes to, if it is a stream of asyncio."""
    writer = getattr(connection, "_writer", None)
    return writer if isinstance(writer, asyncio.StreamWriter) else None


def _is_watched(pool: ConnectionPool) -> bool:
    """Whether others take part when a connection is taken or given back."""
    is_counted = get_observability_instance().get_provider_manager() is not None
    return is_counted or pool._lock.locked()


class RawConnection(PooledConnection, asyncio.Protocol):
    """A connection between `open` and `close`."""

    def __init__(self, pool: ConnectionPool, connection: AbstractConnection) -> None:
        super().__init__(pool, connection)
        self._until = monotonic() + _MAX_SECONDS
        self._parser: hiredis.Reader | None = None
        self._waiting: asyncio.Future[list[Any] | None] | None = None
        self._replies: list[Any] = []
        self._count = 0
        self._transport: asyncio.WriteTransport | None = None
        writer = stream_of(connection)
        if writer is not None and not writer.is_closing():
            self._parser = hiredis.Reader(
                protocolError=InvalidResponse,
                replyError=connection._parser.parse_error,
                notEnoughData=_PARTIAL,
            )
            self._transport = writer.transport
            self._stream = cast(asyncio.Protocol, self._transport.get_protocol())
            self._transport.set_protocol(self)

    async def close(self) -> None:
        try:
            self._leave()
        finally:
            await self._pool.release(self._connection)

    @property
    def may_stay(self) -> bool:
        transport, pool = self._transport, self._pool
        if transport is None or transport.is_closing() or monotonic() >= self._until:
            return False
        return not (isinstance(pool, FairPool) and pool.is_exhausted)

    async def ask(self, commands: bytes, count: int = 1) -> list[Any]:
        if self._transport is None:
            return await super().ask(commands, count)
        self._waiting = asyncio.get_running_loop().create_future()
        self._replies, self._count = [], count
        try:
            self._transport.write(commands)
            replies = await self._waiting
            if replies is None:  # the stream has them
                return [await self._read() for _ in range(count)]
            for reply in replies:
                if isinstance(reply, RedisConnectionError):  # the server starts, or is full
                    raise reply
        except BaseException:
            self._leave()
            await self._connection.disconnect(nowait=True)
            raise
        return replies

    async def _read(self) -> Any:
        try:
            reply = await self._connection.read_response(timeout=math.inf)
        except ResponseError as error:
            return error
        writer = stream_of(self._connection)
        if reply is None and writer is not None and writer.is_closing():
            await self._connection.disconnect(nowait=True)
            raise RedisConnectionError("the connection was lost")  # the system has timed it out
        return reply

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._parser is None:  # nobody has asked
            self._leave()
            self._stream.data_received(data)
            return
        self._parser.feed(data)
        try:
            while len(self._replies) < self._count:
                if (reply := self._parser.gets()) is _PARTIAL:
                    return
                self._replies.append(reply)
        except InvalidResponse as error:
            self._answer(error)
            return
        more = InvalidResponse("more came than was asked for")
        self._answer(more if self._parser.has_data() else self._replies)

    def eof_received(self) -> bool | None:
        self._leave()
        return self._stream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()

    def _leave(self) -> None:
        """Give the stream what arrives from now on."""
        if self._transport is not None:
            self._transport.set_protocol(self._stream)
            self._transport = None
            self._answer(None)

    def _answer(self, replies: list[Any] | RedisError | None) -> None:
        """Wake the caller; with None, the stream has the replies."""
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.done():
            return
        if isinstance(replies, RedisError):
            waiting.set_exception(replies)
        else:
            waiting.set_result(replies)


class RawConnections(Connections):
    """Looks at what connections write to."""

    async def open(self, pool: ConnectionPool) -> PooledConnection:
        return RawConnection(pool, await pool.get_connection())

    def is_ready(self, pool: ConnectionPool, connection: AbstractConnection) -> bool:
        writer, stream = stream_of(connection), getattr(connection, "_reader", None)
        parser = getattr(connection._parser, "_reader", None)
        return (
            writer is not None
            and not writer.is_closing()
            and isinstance(stream, asyncio.StreamReader)
            and isinstance(parser, hiredis.Reader)
            and not (stream.at_eof() or stream._buffer or parser.has_data())  # type: ignore[attr-defined]  # redis-py looks there, too
            and not _is_watched(pool)
        )

    def may_rest(self, pool: ConnectionPool, connection: AbstractConnection) -> bool:
        return not (
            connection.should_reconnect()
            or connection._re_auth_token is not None
            or _is_watched(pool)
        )

    def is_closing(self, connection: AbstractConnection) -> bool:
        writer = stream_of(connection)
        return writer is not None and writer.is_closing()


IMPLEMENTATION = {"connections": RawConnections()}
