"""The databases under test, each a real server, and how a service opens them."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from app.database import mysql, postgres, s3, sqlite
from app.database.bucket import Bucket
from app.database.engine import Database
from app.database.tables import Base
from app.items.in_s3 import S3ItemRepository
from app.items.in_sql import SqlItemRepository
from app.items.repository import ItemRepository
from app.settings.database.postgres import DatabaseSettings as PostgresSettings
from devservers.guard import ServerUnavailable
from devservers.mysql import EmbeddedMySQL
from devservers.postgres import EmbeddedPostgres
from devservers.s3 import EmbeddedS3, settings_of
from devservers.server import EmbeddedServer
from devservers.waiting import HANG
from tests.support.ceph import EmbeddedCeph
from tests.support.pgbouncer import EmbeddedPgBouncer
from tests.support.standby import StandbyPostgres, together

AnyServer = TypeVar("AnyServer", bound=EmbeddedServer)

SERVERS: dict[str, Callable[[], EmbeddedServer]] = {
    "postgres": EmbeddedPostgres,
    "mysql": EmbeddedMySQL,
    "s3-moto": EmbeddedS3,
    "s3-ceph": EmbeddedCeph,
}
# PostgreSQL behind a pooler, and the one that has taken over from another.
INDIRECT = ("postgres-session", "postgres-transaction", "postgres-failover")
ALL = ("sqlite", *SERVERS, *INDIRECT)
SLOW = {"mysql", "s3-ceph", *INDIRECT}
POOLED_TRANSACTIONS = PostgresSettings(
    service_name="test", database_pooler="transaction"
).database_connect_args


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
        pool_timeout: float = HANG,
        timeout: float = HANG,  # noqa: ASYNC109 - it is the database's, not that of this function
    ) -> AsyncIterator[tuple[Database | Bucket, ItemRepository]]:
        """The database and its items, as a service makes them. All times in seconds."""
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
            product = self.kind.partition("-")[0]
            create = {"postgres": postgres, "mysql": mysql, "sqlite": sqlite}[product]
            if self.kind == "postgres-transaction":
                limits["connect_args"] = POOLED_TRANSACTIONS
            async with create.create_database(url, **limits) as database:
                yield database, SqlItemRepository(database)

    @property
    def nowhere(self) -> str:
        """The URL with a port on which nobody listens."""
        assert self.server is not None
        return re.sub(rf"(:|%3A){self.server.port}\b", r"\g<1>1", self.url)

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
    with ExitStack() as stack:
        if kind == "postgres-failover":
            backend = _after_a_failover(stack)
        elif kind in INDIRECT:
            behind = stack.enter_context(EmbeddedPostgres())
            mode: Any = kind.partition("-")[2]
            pooler = installed(lambda: EmbeddedPgBouncer(behind.url, mode=mode))
            backend = Backend(kind, stack.enter_context(pooler).url, pooler)
        else:
            server = stack.enter_context(installed(SERVERS[kind]))
            backend = Backend(kind, server.url, server)
        asyncio.run(backend.make_tables())
        yield backend


def _after_a_failover(stack: ExitStack) -> Backend:
    first = stack.enter_context(EmbeddedPostgres())
    second = stack.enter_context(StandbyPostgres(first))
    first.kill()
    second.promote()
    return Backend("postgres-failover", together(first, second), second)


def installed(make: Callable[[], AnyServer]) -> AnyServer:
    """Make a server, not started yet, or skip the test: its programs may not be installed."""
    try:
        return make()
    except ServerUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
