"""TLS in front of a server that speaks none, certified by an authority of the test's own."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trustme

_CHUNK = 65_536


@asynccontextmanager
async def tls_front(host: str, port: int, certificate: trustme.LeafCert) -> AsyncIterator[int]:
    """Pass what comes by TLS on to a server; yields the port of 127.0.0.1 to connect to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    clients: set[asyncio.StreamWriter] = set()

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        clients.add(to_client)
        server, to_server = await asyncio.open_connection(host, port)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass_on(client, to_server))
            group.create_task(_pass_on(server, to_client))

    front = await asyncio.start_server(serve, "127.0.0.1", ssl=context)
    async with front:
        try:
            yield front.sockets[0].getsockname()[1]
        finally:
            for client in clients:  # the server's end waits for them, from Python 3.12 on
                client.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()
