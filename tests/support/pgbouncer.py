"""A real PgBouncer, Debian's, in front of a PostgreSQL."""

import os
import shutil
import socket
import struct
from textwrap import dedent
from typing import Literal

from sqlalchemy import make_url

from devservers import unprivileged
from devservers.guard import ServerUnavailable
from devservers.server import EmbeddedServer

_SSL_REQUEST = struct.pack(">II", 8, 80_877_103)
_NOT_INSTALLED = "PgBouncer is not installed. On Debian: apt install pgbouncer"


class EmbeddedPgBouncer(EmbeddedServer):
    """One PgBouncer on the loopback interface, with the settings that it comes with."""

    _name = "PgBouncer"
    _ready = "process up"

    def __init__(
        self, behind: str, *, mode: Literal["session", "transaction"], **configuration: str | int
    ) -> None:
        """Say how to start it.

        Args:
            behind: the URL of the PostgreSQL.
            mode: for how long a client has a connection to itself.
            configuration: what `pgbouncer.ini` takes besides.

        Raises:
            ServerUnavailable: it is not installed.
        """
        super().__init__()
        program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise ServerUnavailable(_NOT_INSTALLED)
        self._program = program
        self._behind = make_url(behind)
        self._configuration = {"pool_mode": mode, **configuration}
        self._user = unprivileged.user()

    @property
    def url(self) -> str:
        url = self._behind.set(host=self.host, port=self.port)
        return url.render_as_string(hide_password=False)

    def answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=0.5) as connection:
                connection.sendall(_SSL_REQUEST)
                return connection.recv(1) in {b"N", b"S"}
        except OSError:
            return False

    def _prepare(self) -> None:
        if self._user is not None:
            unprivileged.give(self.folder, self._user)
        (self.folder / "users").write_text(f'"{self._behind.username}" "{self._behind.password}"\n')

    def _command(self) -> list[str]:
        configuration = self.folder / "pgbouncer.ini"
        # The port is another one if somebody has taken the first.
        configuration.write_text(
            dedent(f"""\
                [databases]
                * = host={self._behind.host} port={self._behind.port}

                [pgbouncer]
                listen_addr = {self.host}
                listen_port = {self.port}
                unix_socket_dir =
                auth_type = scram-sha-256
                auth_file = {self.folder}/users
            """)
            + "".join(f"{name} = {value}\n" for name, value in self._configuration.items())
        )
        for file in (configuration, self.folder / "users"):
            file.chmod(0o600)
            if self._user is not None:
                os.chown(file, *self._user)
        return [self._program, str(configuration)]
