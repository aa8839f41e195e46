"""A real MySQL or MariaDB: one that is installed, in a folder of its own, or in Docker."""

import asyncio
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devservers import unprivileged
from devservers.choice import Server, choose
from devservers.containers import image, running
from devservers.guard import ServerUnavailable
from devservers.migrations import PREPARATIONS as PREPARATIONS
from devservers.server import EmbeddedServer, with_end
from devservers.waiting import HANG, PATIENCE

_NOT_INSTALLED = """\
No package brings MySQL along, and neither MariaDB nor MySQL is installed. One of these helps:
  apt install mariadb-server-core mariadb-client-core    Debian, Ubuntu: programs, no system service
  brew install mariadb                                   macOS
  a running Docker
  DATABASE_URL=mysql+asyncmy://user:password@host:3306/database"""
# Servers are often not on the PATH of those who do not administrate them.
_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/opt/homebrew/bin", "/usr/local/bin")
_DATABASE = "app"
# What a crash of the machine would cost does not matter here, and waiting for the disk does.
# `loose`: one kind of server knows the setting, the other one ignores it.
_SETTINGS = {
    "innodb-flush-log-at-trx-commit": 0,
    "innodb-buffer-pool-size": "32M",
    "performance-schema": "OFF",
    "skip-name-resolve": "ON",
    "socket": "mysql.sock",  # in the folder, where nobody looks for it
    "loose-mysqlx": "OFF",
    "loose-skip-log-bin": "",
}


class EmbeddedMySQL(EmbeddedServer):
    """One MariaDB or MySQL on the loopback interface, with an empty database."""

    _name = "MySQL"
    _ready = "ready for connections"

    def __init__(
        self,
        *,
        port: int | None = None,
        folder: Path | None = None,
        start_timeout: float = HANG,
        **configuration: str | int,
    ) -> None:
        """Say how to start the server, such as `EmbeddedMySQL(max_connections=10)`.

        Args:
            port: where to listen; None: a free port.
            folder: where to keep the server's files, which stay there; None: a temporary folder.
            start_timeout: seconds after which a start has failed.
            configuration: what the server's command line takes, with `_` for `-`; overrides what
                is set here.

        Raises:
            ServerUnavailable: no server is installed; says how to get one.
        """
        super().__init__(port=port, folder=folder, start_timeout=start_timeout)
        self.configuration = {name.replace("_", "-"): v for name, v in configuration.items()}
        self._program = _program()
        self._password = secrets.token_hex(16)
        self._user = unprivileged.user()

    @property
    def url(self) -> str:
        login = f"service:{self._password}"
        return f"mysql+asyncmy://{login}@{self.host}:{self.port}/{_DATABASE}"

    def answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=0.5) as connection:
                # The server speaks first: four bytes of header, and the version of the protocol.
                greeting = connection.recv(5)
        except OSError:
            return False
        return len(greeting) == 5 and greeting[4] == 10

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _prepare(self) -> None:
        if self._user is not None:
            unprivileged.give(self.folder, self._user)
        password = self.folder / "login.sql"
        if self._data.exists():  # in a folder that was given, from the last time
            self._password = re.findall(r"IDENTIFIED BY '(\w+)'", password.read_text())[0]
            return
        password.touch(mode=0o600)
        password.write_text(
            # MySQL begins with a root that has no password, MariaDB with one that is locked.
            f"ALTER USER root@localhost IDENTIFIED BY '{self._password}';\n"
            f"CREATE USER IF NOT EXISTS service@'127.0.0.1' IDENTIFIED BY '{self._password}';\n"
            "GRANT ALL PRIVILEGES ON *.* TO service@'127.0.0.1';\n"
            f"CREATE DATABASE IF NOT EXISTS {_DATABASE} CHARACTER SET utf8mb4;\n"
        )
        if self._user is not None:
            os.chown(password, *self._user)
        self._create()

    def _create(self) -> None:
        guard = self._started
        # Run by the guardian, so that it ends with us, too.
        guard.run(self._creation(), user=self._user)
        deadline = time.monotonic() + self._start_timeout
        while (code := guard.status()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if code != 0:
            why = f"{self._program.name} made no database ({code=}). Its log:"
            raise ServerUnavailable(with_end(why, self._log(0)))

    def _creation(self) -> list[str]:
        if self._program.name == "mysqld":
            command = [str(self._program), "--no-defaults", "--initialize-insecure"]
            return [*command, f"--datadir={self._data}"]
        return [
            str(_installer(self._program)),
            "--no-defaults",
            f"--datadir={self._data}",
            "--skip-test-db",
            "--skip-name-resolve",
        ]

    def _command(self) -> list[str]:
        settings = {
            **_SETTINGS,
            "bind-address": self.host,
            "port": self.port,
            "datadir": self._data,
            "pid-file": self.folder / "pid",
            "init-file": self.folder / "login.sql",
            **self.configuration,
        }
        arguments = [f"--{name}={v}" if v != "" else f"--{name}" for name, v in settings.items()]
        return [str(self._program), "--no-defaults", *arguments]


def _program() -> Path:
    places = os.pathsep.join([os.environ.get("PATH", ""), *_PLACES])
    for name in ("mariadbd", "mysqld"):
        if found := shutil.which(name, path=places):
            # MariaDB calls itself mysqld as well, for those who expect it.
            return Path(found).resolve()
    raise ServerUnavailable(_NOT_INSTALLED)


def _installer(program: Path) -> Path:
    for folder in (program.parent, program.parents[1] / "bin"):
        installer = folder / "mariadb-install-db"
        if installer.exists() and (folder / "my_print_defaults").exists():
            return installer
    raise ServerUnavailable(f"{program} is there, but not all of MariaDB.\n{_NOT_INSTALLED}")


@contextmanager
def mysql_server() -> Iterator[Server]:
    """The MySQL that `DATABASE_URL` names, or one in Docker, or one that is installed.

    Raises:
        ServerUnavailable: it does not answer, or could not be started.
    """
    with choose("database", "DATABASE_URL", ping=_ping, docker=_docker, embedded=_embedded) as s:
        yield s


@contextmanager
def database_variables() -> Iterator[dict[str, str]]:
    """The variable that says where the database is."""
    with mysql_server() as server:
        yield {"DATABASE_URL": server.url}


def _ping(url: str) -> None:
    # Not at the top: importing it takes a while.
    from sqlalchemy import NullPool
    from sqlalchemy.ext.asyncio import create_async_engine

    async def ping() -> None:
        engine = create_async_engine(
            url, poolclass=NullPool, connect_args={"connect_timeout": int(PATIENCE)}
        )
        async with asyncio.timeout(2 * PATIENCE), engine.connect():
            pass

    asyncio.run(ping())


@contextmanager
def _docker() -> Iterator[tuple[str, str]]:
    from testcontainers.community.mysql import MySqlContainer

    # Docker publishes the port to the whole network.
    password = secrets.token_hex(16)
    container = MySqlContainer(
        image("database"),
        dialect="asyncmy",
        username="service",
        root_password=password,
        password=password,
        dbname=_DATABASE,
    )
    with running(container):
        yield container.get_connection_url(), container.image


@contextmanager
def _embedded() -> Iterator[tuple[str, str]]:
    with EmbeddedMySQL() as mysql:
        told = (mysql.folder / "log").read_text(errors="replace")
        version = re.search(r"Version: '([\d.]+)(-MariaDB)?", told)
        name = "MariaDB" if version is None or version[2] else "MySQL"
        yield mysql.url, f"{name} {version[1] if version else ''}".rstrip()
