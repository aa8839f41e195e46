"""Reads from a replica, where they may be behind; see `app/core/read_scope.py` for when they may.

The replica is used once it has shown that it is one. While it is away, the primary is asked in its
place, by a part of its pool: writes keep the rest. No request waits to find out whether the replica
is back.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from contextvars import Context
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog
from prometheus_client import Counter, Gauge
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.core.read_scope import may_lag
from app.core.tasks import Tasks
from app.database.connections import Driver
from app.database.engine import Database
from app.database.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

fallbacks = Counter("database_replica_fallbacks", "Reads of the primary in place of the replica.")
away = Gauge(
    "database_replica_away", "1 while the replica is not asked.", multiprocess_mode="livemax"
)

_INTERVAL = 1.0
"""Seconds between two attempts to find out whether the replica is back."""


@dataclass
class Replica:
    """A database that follows the primary, and what the primary does in its place."""

    database: Database
    limit: int
    """Reads that the primary takes in its place, at a time."""
    slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.limit)


class ReplicatedDatabase(Database):
    """A primary, whose replica answers the reads that may be behind."""

    def __init__(
        self, engine: AsyncEngine, driver: Driver, *, timeout: float, replica: Replica
    ) -> None:
        """`timeout` is the longest a whole transaction may take, in seconds."""
        super().__init__(engine, driver, timeout=timeout)
        self._replica = replica
        self._identity = driver.identity
        self._is_away = True
        self._is_told = False
        """The log has it that the replica is away."""
        self._waiting: set[asyncio.Timeout] = set()
        """Those who wait for a connection to it, and not any longer once it is away."""
        self._tasks = Tasks(Context())  # it outlives the request that happens to notice

    def reading(self, *, fresh: bool = False) -> AbstractAsyncContextManager[AsyncSession]:
        """See `Database.reading`."""
        return super().reading() if fresh or not may_lag() else self._reading_behind()

    @asynccontextmanager
    async def _reading_behind(self) -> AsyncIterator[AsyncSession]:
        latest = asyncio.get_running_loop().time() + self._timeout
        async with AsyncExitStack() as stack:
            session = None if self._is_away else await self._enter_replica(stack, latest)
            if session is None:
                fallbacks.inc()
                await stack.enter_async_context(self._slot(latest))
                transaction = self._transaction(read_only=True, latest=latest)
                session = await stack.enter_async_context(transaction)
            yield session

    async def _enter_replica(self, stack: AsyncExitStack, latest: float) -> AsyncSession | None:
        """Begin a transaction of the replica; None if it is away."""
        transaction = self._replica.database._transaction(read_only=True, latest=latest)
        try:
            async with asyncio.timeout(None) as wait:
                self._waiting.add(wait)
                try:
                    return await stack.enter_async_context(transaction)
                finally:
                    self._waiting.discard(wait)
        except TimeoutError:
            return None
        except DatabaseUnavailable as error:
            # That all of its connections are busy is no reason to burden the primary.
            if isinstance(error.__cause__, PoolTimeoutError):
                raise
            self._leave(error)
            return None

    @asynccontextmanager
    async def _slot(self, latest: float) -> AsyncIterator[None]:
        slots = self._replica.slots
        try:
            async with asyncio.timeout_at(latest):
                await slots.acquire()
        except TimeoutError:
            raise DatabaseUnavailable(
                "the replica is away, and the primary is busy with reads in its place"
            ) from None
        try:
            yield
        finally:
            slots.release()

    async def check_replica(self) -> None:
        """Ask the replica for a sign of life, and whether it is one.

        Raises:
            DatabaseUnavailable: it does not answer, or is another database.
        """
        try:
            theirs = await self._identify(self._replica.database)
            ours = await self._identify(self)
            if None not in (ours, theirs) and ours != theirs:
                raise DatabaseUnavailable(
                    "DATABASE_READ_URL is another database than DATABASE_URL, or has other tables"
                )
        except DatabaseUnavailable as error:
            self._leave(error)
            raise
        if self._is_away:
            self._is_away = self._is_told = False
            away.set(0)
            log.info("database.replica_used")

    async def _identify(self, database: Database) -> object:
        """What a database has in common with its replicas; None if this role may not know."""
        if self._identity is not None:
            try:
                async with database.reading(fresh=True) as session:
                    found: object = await session.scalar(text(self._identity))
                    return found
            except DBAPIError:
                pass
        await database.ping()
        return None

    def _leave(self, error: DatabaseUnavailable) -> None:
        """Ask the primary instead, until the replica is back."""
        if not self._is_told:
            self._is_told = True
            log.warning("database.replica_away", error=str(error))
        self._is_away = True
        away.set(1)
        for wait in self._waiting:
            wait.reschedule(asyncio.get_running_loop().time())
        if not self._tasks:
            self._tasks.start(self._recover())

    async def _recover(self) -> None:
        while self._is_away:
            await asyncio.sleep(_INTERVAL)
            await self._try()

    async def _begin(self) -> None:
        await self._try()
        await self._recover()

    async def _try(self) -> None:
        with suppress(DatabaseUnavailable):
            await self.check_replica()

    async def __aenter__(self) -> Self:
        away.set(1)
        self._tasks.start(self._begin())
        return await super().__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._tasks.stop()
        await super().__aexit__(exc_type, exc, traceback)
