"""A second PostgreSQL that follows a first one, until it is promoted."""

import asyncio
import time

import asyncpg
from sqlalchemy import make_url

from devservers.guard import ServerUnavailable
from devservers.postgres import EmbeddedPostgres
from devservers.server import with_end
from devservers.waiting import HANG, until


class StandbyPostgres(EmbeddedPostgres):
    """A copy of a running PostgreSQL, which gets every change and takes none itself."""

    _ready = "database system is ready to accept"

    def __init__(self, primary: EmbeddedPostgres) -> None:
        """`primary` has to run."""
        super().__init__()
        self._primary = make_url(primary.url)
        self._password = str(self._primary.password)

    def promote(self) -> None:
        """Let it take changes; returns when it does."""

        async def promote() -> None:
            connection = await asyncpg.connect(self.url.replace("+asyncpg", ""), timeout=HANG)
            try:
                await connection.execute(f"SELECT pg_promote(true, {HANG:.0f})")

                async def is_primary() -> bool:
                    return not await connection.fetchval("SELECT pg_is_in_recovery()")

                await until(is_primary, what="the standby's promotion")
            finally:
                await connection.close()

        asyncio.run(promote())

    def _create(self, password: object) -> None:
        primary = self._primary
        where = f"host={primary.host} port={primary.port} user={primary.username}"
        copy = [str(self._binaries / "pg_basebackup"), "-D", str(self._data), "-R", "--no-sync"]
        guard = self._started
        guard.run(
            [*copy, "--checkpoint=fast", "-d", f"{where} password={primary.password}"],
            user=self._user,
        )
        deadline = time.monotonic() + HANG
        while (code := guard.status()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if code != 0:
            raise ServerUnavailable(with_end(f"pg_basebackup failed ({code=}):", self._log(0)))


def together(*servers: EmbeddedPostgres) -> str:
    """The URL of several servers, of which the one that takes changes is meant."""
    first = make_url(servers[0].url)
    hosts = tuple(f"{server.host}:{server.port}" for server in servers)
    url = first.set(host=None, port=None)
    return url.set(query={"host": hosts, "target_session_attrs": "read-write"}).render_as_string(
        hide_password=False
    )
