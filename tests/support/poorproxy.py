"""A proxy in front of Redis that does not have all of its commands, as those of some providers."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from types import TracebackType
from typing import Self

import hiredis


class PoorProxy:
    """Listens on the loopback interface, and knows all commands but some."""

    host = "127.0.0.1"
    port: int

    def __init__(self, host: str, port: int, *, without: Collection[str]) -> None:
        """`without` are commands, in capitals; `host` and `port` are those of the server."""
        self._target = (host, port)
        self._without = {command.encode() for command in without}
        self.refused: list[bytes] = []
        """The commands that clients have tried all the same."""

    def lead_to(self, host: str, port: int) -> None:
        """Connect to another server from now on; connections stay where they are."""
        self._target = (host, port)

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()

    async def _serve(self, client: asyncio.StreamReader, replies: asyncio.StreamWriter) -> None:
        server, commands = await asyncio.open_connection(*self._target)
        back = asyncio.create_task(self._pass_back(server, replies))
        parser = hiredis.Reader()
        with suppress(OSError):
            while data := await client.read(65_536):
                parser.feed(data)
                while (words := parser.gets()) is not False:
                    if words[0].upper() in self._without:
                        self.refused.append(words[0].upper())
                        # Out of its turn if another reply is on its way: none is while a
                        # connection is made.
                        replies.write(b"-ERR unsupported command\r\n")
                    else:
                        commands.write(hiredis.pack_command(tuple(words)))
        commands.close()
        await back

    async def _pass_back(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await server.read(65_536):
                client.write(data)
        client.close()
