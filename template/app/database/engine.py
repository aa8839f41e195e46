"""One pool of connections per process, and transactions on them.

The service starts without its database and answers 503 until it is there. Every wait is bounded:
for a connection from the pool, for a connection to be made, for a transaction to end.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Self

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.database.errors import DatabaseUnavailable

READ_ONLY = "app_read_only"
"""The execution option of transactions that only read."""


class Database:
    """The transactions of one database. Leaving it closes its connections."""

    def __init__(self, engine: AsyncEngine, *, timeout: float) -> None:
        """`timeout` is the longest a whole transaction may take, in seconds."""
        self._engine = engine
        self._timeout = timeout
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A transaction that only reads.

        Raises:
            DatabaseUnavailable: on entering or in its body.
        """
        return self._transaction(read_only=True)

    def writing(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A transaction that is committed at the end of its body, and rolled back by an error.

        Raises:
            DatabaseUnavailable: on entering, in its body or on leaving. If it was raised on
                leaving, nobody knows whether the commit took place.
        """
        return self._transaction(read_only=False)

    async def ping(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            DatabaseUnavailable: there is none.
        """
        async with self.reading() as session:
            await session.execute(text("SELECT 1"))

    @asynccontextmanager
    async def _transaction(self, *, read_only: bool) -> AsyncIterator[AsyncSession]:
        session = self._sessions()
        deadline = asyncio.timeout(self._timeout)
        try:
            async with deadline:
                await self._connect(session, read_only)
                yield session
                await session.commit()
        except (TimeoutError, PoolTimeoutError, OSError, DBAPIError) as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                # Whatever the connection waits for may never come: it is not worth a rollback.
                await session.invalidate()
                raise DatabaseUnavailable(f"no answer within {self._timeout} s") from error
            if _is_outage(error):
                raise DatabaseUnavailable(str(error)) from error
            raise
        finally:
            await session.close()

    async def _connect(self, session: AsyncSession, read_only: bool) -> None:
        try:
            await session.connection(execution_options={READ_ONLY: read_only})
        except DBAPIError as error:
            # Whatever it is, such as a wrong password: the request has not asked for anything yet.
            raise DatabaseUnavailable(str(error.orig)) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._engine.dispose()


def _is_outage(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return isinstance(error, PoolTimeoutError | OSError)
