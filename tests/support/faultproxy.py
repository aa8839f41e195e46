"""A TCP proxy that goes wrong on demand, in the ways in which networks do."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from types import TracebackType
from typing import Self

from devservers.server import free_port

_CHUNK = 65_536
_BIND_ATTEMPTS = 10
_NO_LINGER = pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class _Delay:
    seconds: float


@dataclass(frozen=True, slots=True)
class _Cut:
    after: int


@dataclass(frozen=True, slots=True)
class _BlackHole:
    pass


@dataclass(frozen=True, slots=True)
class _DropReplies:
    pass


_Fault = _Delay | _Cut | _BlackHole | _DropReplies | None


@dataclass(eq=False, slots=True)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    has_lost_data: bool = False
    is_forgotten: bool = False

    def abort(self) -> None:
        for writer in (self.client, self.server):
            if not writer.is_closing():
                # Without this the other side would see an orderly end.
                with suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _NO_LINGER)
                writer.transport.abort()


class FaultProxy:
    """Listens on the loopback interface, and passes everything on to one server.

    A fault is there from the moment its method returns, for open connections as well, until `heal`
    or another fault takes its place.
    """

    host = "127.0.0.1"
    port: int

    def __init__(self, host: str, port: int) -> None:
        """`host` and `port` are those of the server."""
        self._target = (host, port)
        self._fault: _Fault = None
        self._changed = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.accepted = 0
        """How many connections there have been."""
        self.lost = 0
        """How many pieces of replies were dropped."""

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    async def heal(self) -> None:
        """Pass everything on. What a black hole has held back arrives now."""
        await self._become(None)

    async def delay(self, seconds: float) -> None:
        """Hold back every piece of a reply for a while."""
        await self._become(_Delay(seconds))

    async def black_hole(self) -> None:
        """Accept connections and data and pass nothing on, as a network that is cut in two."""
        await self._become(_BlackHole())

    def forget(self) -> None:
        """Pass nothing on any more, without a word, for the connections of now; new ones are fine.

        As a balancer does with connections that were idle for too long.
        """
        for connection in self._connections:
            connection.is_forgotten = True

    async def drop_replies(self) -> None:
        """Give every command to the server, and lose its replies.

        A connection that has lost one is reset at the next change: its client could not tell which
        reply is for which command.
        """
        await self._become(_DropReplies())

    async def cut_replies(self, after: int) -> None:
        """Close each connection after the first `after` bytes of its next reply."""
        await self._become(_Cut(after))

    async def refuse(self) -> None:
        """Reset all connections and refuse new ones, as a host on which the server is gone."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.abort()

    async def forward_to(self, host: str, port: int) -> None:
        """Reset all connections and pass new ones on to another server, as a failover does."""
        await self.refuse()
        self._target = (host, port)
        await self._become(None)

    async def __aenter__(self) -> Self:
        attempts = _BIND_ATTEMPTS
        while self._server is None:
            self.port = free_port()
            attempts -= 1
            try:
                await self._listen()
            except OSError:  # somebody took the port in between
                if not attempts:
                    raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.refuse()
        self._set(None)  # nobody waits for the end of a fault any more
        await asyncio.gather(*self._tasks)

    async def _become(self, fault: _Fault) -> None:
        self._set(fault)
        for connection in self._connections:
            if connection.has_lost_data:
                connection.abort()
        await self._listen()

    def _set(self, fault: _Fault) -> None:
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self.host, self.port)

    def _accept(self, commands: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(commands, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, commands: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            replies, server = await asyncio.open_connection(*self._target)
        except OSError:
            client.transport.abort()
            return
        connection = _Connection(client, server)
        self._connections.add(connection)
        try:
            await asyncio.gather(
                _pump(commands, server, lambda data: self._command(data, connection)),
                _pump(replies, client, lambda data: self._reply(data, connection)),
            )
        finally:
            self._connections.discard(connection)

    async def _command(self, data: bytes, connection: _Connection) -> tuple[bytes, bool]:
        while isinstance(self._fault, _BlackHole):
            await self._changed.wait()
        return b"" if connection.is_forgotten else data, True

    async def _reply(self, data: bytes, connection: _Connection) -> tuple[bytes, bool]:
        while True:
            if connection.is_forgotten:
                return b"", True
            match self._fault:
                case None:
                    return data, True
                case _BlackHole():
                    await self._changed.wait()
                case _Delay(seconds):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), seconds)
                    return data, True
                case _DropReplies():
                    connection.has_lost_data = True
                    self.lost += 1
                    return b"", True
                case _Cut(after):
                    return data[:after], False


async def _pump(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    judge: Callable[[bytes], Awaitable[tuple[bytes, bool]]],
) -> None:
    """Pass data on, as `judge` lets it: what of it, and whether to go on."""
    goes_on = True
    with suppress(OSError):
        while goes_on and (data := await source.read(_CHUNK)):
            data, goes_on = await judge(data)
            sink.write(data)
            await sink.drain()
    # Also ends the other direction, whose source is the same connection.
    sink.close()
