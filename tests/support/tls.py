"""TLS in front of a server that speaks none, certified by an authority of the test's own."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trustme

_CHUNK = 65_536
_SSL_REQUEST = struct.pack(">II", 8, 80_877_103)


@asynccontextmanager
async def tls_front(host: str, port: int, certificate: trustme.LeafCert) -> AsyncIterator[int]:
    """Pass what comes by TLS on to a server; yields the port of 127.0.0.1 to connect to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    async with _front(host, port, _nothing, ssl=context) as its_port:
        yield its_port


@dataclass
class PostgresFront:
    """Where to connect to, and the names in the certificates that clients have shown."""

    port: int = 0
    names: list[str | None] = field(default_factory=list)


@asynccontextmanager
async def postgres_tls_front(
    host: str, port: int, certificate: trustme.LeafCert, authority: trustme.CA
) -> AsyncIterator[PostgresFront]:
    """The same for PostgreSQL, whose clients first ask for TLS. Those who do not are sent away.

    Clients may show a certificate of the authority.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    front = PostgresFront()

    async def begin_tls(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if await client.readexactly(len(_SSL_REQUEST)) != _SSL_REQUEST:
            raise ConnectionAbortedError
        to_client.write(b"S")
        await to_client.start_tls(context)
        subject = (to_client.get_extra_info("peercert") or {}).get("subject", ())
        names = {key: value for ((key, value),) in subject}
        front.names.append(names.get("commonName"))

    async with _front(host, port, begin_tls) as front.port:
        yield front


async def _nothing(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """TLS from the first byte on."""


@asynccontextmanager
async def _front(
    host: str,
    port: int,
    begin: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    **options: Any,
) -> AsyncIterator[int]:
    clients: set[asyncio.StreamWriter] = set()

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        clients.add(to_client)
        try:
            await begin(client, to_client)
        except (OSError, EOFError):
            to_client.transport.abort()
            return
        server, to_server = await asyncio.open_connection(host, port)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass_on(client, to_server))
            group.create_task(_pass_on(server, to_client))

    front = await asyncio.start_server(serve, "127.0.0.1", **options)
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
