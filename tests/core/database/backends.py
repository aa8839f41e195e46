"""The databases under test, each a real server, and how a service opens them."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from app.database import mysql, postgres, s3, sqlite
from app.database.bucket import Bucket
from app.database.engine import Database
from app.items.in_s3 import S3ItemRepository
from app.items.in_sql import SqlItemRepository
from app.items.repository import ItemRepository
from app.items.table import Base
from devservers.guard import ServerUnavailable
from devservers.mysql import EmbeddedMySQL
from devservers.postgres import EmbeddedPostgres
from devservers.s3 import EmbeddedS3, settings_of
from devservers.server import EmbeddedServer
from tests.support.ceph import EmbeddedCeph

AnyServer = TypeVar("AnyServer", bound=EmbeddedServer)

SERVERS: dict[str, Callable[[], EmbeddedServer]] = {
    "postgres": EmbeddedPostgres,
    "mysql": EmbeddedMySQL,
    "s3-moto": EmbeddedS3,
    "s3-ceph": EmbeddedCeph,
}
ALL = ("sqlite", *SERVERS)
SLOW = {"mysql", "s3-ceph"}


@dataclass(frozen=True)
class Backend:
    """A database that runs; `server` is None where there is none to kill."""

    kind: str
    url: str
    server: EmbeddedServer | None

    @asynccontextmanager
    async def open(
        self,
        *,
        url: str = "",
        pool_size: int = 4,
        pool_timeout: float = 5,
        timeout: float = 10,  # noqa: ASYNC109 - it is the database's, not that of this function
    ) -> AsyncIterator[tuple[Database | Bucket, ItemRepository]]:
        """The database and its items, as `main.py` makes them. All times in seconds."""
        limits: dict[str, Any] = {
            "pool_size": pool_size,
            "pool_timeout": pool_timeout,
            "timeout": timeout,
        }
        url = url or self.url
        if self.kind.startswith("s3"):
            settings = settings_of(url)
            async with s3.create_database(
                f"{settings['DATABASE_URL']}/prefix",
                endpoint_url=settings["S3_ENDPOINT_URL"],
                region=settings["S3_REGION"],
                access_key_id=settings["S3_ACCESS_KEY_ID"],
                secret_access_key=settings["S3_SECRET_ACCESS_KEY"],
                **limits,
            ) as bucket:
                yield bucket, S3ItemRepository(bucket)
        else:
            create = {"postgres": postgres, "mysql": mysql, "sqlite": sqlite}[self.kind]
            async with create.create_database(url, **limits) as database:
                yield database, SqlItemRepository(database)

    async def make_tables(self) -> None:
        async with self.open() as (database, _):
            if isinstance(database, Database):
                async with database.writing() as session:
                    connection = await session.connection()
                    await connection.run_sync(Base.metadata.create_all)


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Backend]:
    """Start a database, with tables if it has any.

    What is not installed skips its tests on somebody's own machine, and fails them in CI.
    """
    if kind == "sqlite":
        backend = Backend(kind, f"sqlite+aiosqlite:///{folder / 'app.db'}", None)
        asyncio.run(backend.make_tables())
        yield backend
        return
    with installed(SERVERS[kind]) as server:
        backend = Backend(kind, server.url, server)
        asyncio.run(backend.make_tables())
        yield backend


def installed(make: Callable[[], AnyServer]) -> AnyServer:
    """Make a server, not started yet, or skip the test: its programs may not be installed."""
    try:
        return make()
    except ServerUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
