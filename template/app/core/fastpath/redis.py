"""Reads arrays from Redis past the streams that redis-py reads from.

asyncio's streams copy what comes three times and wake their reader for every piece of it, and a
pool looks at a connection closely each time it hands it out: for a batch of 30 values that is as
much as all the rest. So whoever has another command at once keeps the connection, and what comes
goes from the transport to the parser. Whatever else comes than arrays, an error or the end, is left
to redis-py.

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
from redis.exceptions import InvalidResponse, RedisError

from app.core.implementations import Connections, PooledConnection
from app.core.redis.pool import FairPool

KNOWN = "8.1"
WITHOUT = "batches of reads take up to twice as long"

_MAX_SECONDS = 1.0
"""A connection goes back for a moment after so long: its pool may know of a new primary."""


def is_known() -> bool:
    """Whether redis-py's connections have what they write to where it is known to be."""
    return "_writer" in inspect.unwrap(AbstractConnection.__init__).__code__.co_names


def stream_of(connection: AbstractConnection) -> asyncio.StreamWriter | None:
    """Return what a connection writes to, if it is a stream of asyncio."""
    writer = getattr(connection, "_writer", None)
    return writer if isinstance(writer, asyncio.StreamWriter) else None


class RawConnection(PooledConnection, asyncio.Protocol):
    """A connection between `open` and `close`, for one array after the other."""

    def __init__(self, pool: ConnectionPool, connection: AbstractConnection) -> None:
        super().__init__(pool, connection)
        self._until = monotonic() + _MAX_SECONDS
        self._parser = hiredis.Reader(protocolError=InvalidResponse)
        self._begun = False
        self._reply: asyncio.Future[list[Any] | None] | None = None
        self._transport: asyncio.WriteTransport | None = None
        writer = stream_of(connection)
        if writer is not None and not writer.is_closing():
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

    async def ask(self, command: bytes) -> list[Any]:
        if self._transport is None:
            await self._connection.send_packed_command(command, check_health=False)
        else:
            self._reply = asyncio.get_running_loop().create_future()
            try:
                self._transport.write(command)
                reply = await self._reply
            except BaseException:
                self._leave()
                await self._connection.disconnect(nowait=True)
                raise
            if reply is not None:
                return reply
        told: list[Any] | None = await self._connection.read_response(timeout=math.inf)
        if told is None:  # the system has timed the connection out
            await self._connection.disconnect(nowait=True)
            raise RedisConnectionError("the connection was lost")
        return told

    def data_received(self, data: bytes) -> None:
        if self._reply is None or not (self._begun or data.startswith(b"*")):
            self._leave()
            self._stream.data_received(data)
            return
        self._begun = True
        self._parser.feed(data)
        try:
            reply = self._parser.gets()
        except InvalidResponse as error:
            reply = error
        if reply is not False:
            if self._parser.has_data():
                reply = InvalidResponse("more came than was asked for")
            self._begun = False
            self._answer(reply)

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

    def _answer(self, reply: list[Any] | RedisError | None) -> None:
        """Wake the caller; with None, the stream has the reply."""
        waiting, self._reply = self._reply, None
        if waiting is None or waiting.done():
            return
        if isinstance(reply, RedisError):
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)


class RawConnections(Connections):
    """Looks at what connections write to."""

    async def open(self, pool: ConnectionPool) -> PooledConnection:
        return RawConnection(pool, await pool.get_connection())

    def is_closing(self, connection: AbstractConnection) -> bool:
        writer = stream_of(connection)
        return writer is not None and writer.is_closing()

    async def reply(self, connection: AbstractConnection) -> Any:
        if (writer := stream_of(connection)) is None:
            return await super().reply(connection)
        reply = await connection.read_response(timeout=math.inf)
        if reply is None and writer.is_closing():
            raise RedisConnectionError("the connection was lost")  # the system has timed it out
        return reply


IMPLEMENTATION = {"connections": RawConnections()}
