"""A connection of redis-py's pool, without the streams that it reads from.

asyncio's streams copy what comes three times and wake their reader for every piece of it, and a
pool looks at a connection closely each time it hands it out: for a batch of 30 values that is as
much as all the rest. So whoever has another command at once keeps the connection, and what comes
goes from the transport to the parser.

Only arrays are read here. Whatever else comes, an error or the end, is left to redis-py.
"""

import asyncio
import math
from time import monotonic
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError

from app.core.redis.pool import FairCheckout, stream_of

# Seconds after which a connection goes back for a moment: its pool may know of a new primary.
_LONGEST = 1.0


class RawConnection(asyncio.Protocol):
    """A connection between `open` and `close`, for one array after the other."""

    def __init__(self, pool: ConnectionPool, connection: AbstractConnection) -> None:
        self._pool = pool
        self._connection = connection
        self._until = monotonic() + _LONGEST
        self._parser = hiredis.Reader(protocolError=InvalidResponse)
        self._begun = False
        self._reply: asyncio.Future[list[Any] | None] | None = None
        self._transport: asyncio.WriteTransport | None = None
        writer = stream_of(connection)
        if writer is not None and not writer.is_closing():
            self._transport = writer.transport
            self._stream = cast(asyncio.Protocol, self._transport.get_protocol())
            self._transport.set_protocol(self)

    @classmethod
    async def open(cls, pool: ConnectionPool) -> "RawConnection":
        """Take a connection from its pool.

        Raises:
            PoolTimeout: none came free in time.
            RedisError: it could not be made.
        """
        return cls(pool, await pool.get_connection())

    async def close(self) -> None:
        """Give it back."""
        try:
            self._leave()
        finally:
            await self._pool.release(self._connection)

    @property
    def may_stay(self) -> bool:
        """Whether it is good for another command, and the pool has others to give."""
        transport, pool = self._transport, self._pool
        if transport is None or transport.is_closing() or monotonic() >= self._until:
            return False
        return not (isinstance(pool, FairCheckout) and pool.is_exhausted)

    async def ask(self, command: bytes) -> list[Any]:
        """The reply to a command, however long it takes.

        Cut short, it ends the connection: the next command would get the reply of this one.

        Raises:
            RedisError: it is an error, or the connection was lost.
        """
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
        """Let the stream have what comes from now on."""
        if self._transport is not None:
            self._transport.set_protocol(self._stream)
            self._transport = None
            self._answer(None)

    def _answer(self, reply: list[Any] | RedisError | None) -> None:
        """None: the stream has it."""
        waiting, self._reply = self._reply, None
        if waiting is None or waiting.done():
            return
        if isinstance(reply, RedisError):
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)
