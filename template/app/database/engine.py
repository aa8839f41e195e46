"""One pool of connections per process, and transactions on them.

The service starts without its database and answers 503 until it is there. Every wait is bounded:
for a connection from the pool, for a connection to be made, for a transaction to end.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.core.read_scope import read_fresh
from app.database.connections import UNDONE, Driver, Verdict, Watch, describe
from app.database.errors import DatabaseUnavailable
from app.database.retry import TransactionUndone, changing, ends_at, note_commit

READ_ONLY = "app_read_only"
"""The execution option of transactions that only read."""
_ROLLBACK = 1.0
"""Seconds that giving a connection back may take, after an error. Then it is closed."""


class Database:
    """The transactions of one database. Leaving it closes its connections."""

    def __init__(self, engine: AsyncEngine, driver: Driver, *, timeout: float) -> None:
        """`timeout` is the longest a whole transaction may take, in seconds."""
        self._engine = engine
        self._driver = driver
        self._timeout = timeout
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._watch = Watch(engine, driver)

    @property
    def engine(self) -> AsyncEngine:
        """SQLAlchemy's, for what is no transaction of a session, such as a library that wants one.

        Its waits are bounded one by one, and not together.
        """
        return self._engine

    def reading(self, *, fresh: bool = False) -> AbstractAsyncContextManager[AsyncSession]:
        """A transaction that only reads.

        Args:
            fresh: of everything that was committed before, also where there is a replica.

        Raises:
            DatabaseUnavailable: on entering or in its body.
        """
        return self._transaction(read_only=True)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """A transaction that is committed at the end of its body, and rolled back by an error.

        Its session is given to everything that has to be part of it, also of other features.

        Raises:
            RuntimeError: this task is in such a transaction already.
            TransactionUndone: it may be repeated; see `retry_once`.
            DatabaseUnavailable: on entering, in its body or on leaving. If it was raised on
                leaving, nobody knows whether the commit took place.
        """
        read_fresh()
        with changing(self):
            async with self._transaction(read_only=False) as session:
                yield session

    async def ping(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            DatabaseUnavailable: there is none.
        """
        async with self.reading(fresh=True) as session:
            await session.execute(text("SELECT 1"))

    def is_transient(self, error: BaseException) -> bool:
        """Whether what has raised `error` would succeed later, as it is.

        By its code: a syntax error or a broken constraint is not transient, whatever its class. An
        error that names a file is none of the database's.
        """
        if isinstance(error, DBAPIError):
            return (
                error.connection_invalidated
                or error.orig is None
                or self._driver.judge(error.orig) is not Verdict.FAULT
            )
        if isinstance(error, OSError):
            return error.filename is None
        return isinstance(error, DatabaseUnavailable | PoolTimeoutError)

    @asynccontextmanager
    async def _transaction(
        self, *, read_only: bool, latest: float = float("inf")
    ) -> AsyncIterator[AsyncSession]:
        """A transaction that ends before `latest`, in the time of the event loop."""
        session = self._sessions()
        end = ends_at(min(latest, asyncio.get_running_loop().time() + self._timeout))
        deadline = asyncio.timeout_at(end)
        committed = False
        try:
            async with deadline:
                notes = await self._connect(session, read_only)
                yield session
                if UNDONE in notes:
                    # The body went on: of all that it did, only this part would be committed.
                    raise TransactionUndone(notes[UNDONE])
                await session.commit()
                committed = True
                note_commit()  # also of one that only reads: nothing keeps its body from writing
                await session.close()
        except BaseException as error:
            await self._give_back(session, 0 if deadline.expired() else end)
            if isinstance(error, TimeoutError) and deadline.expired():
                if committed:
                    return  # and only the connection was lost
                raise DatabaseUnavailable(f"no answer within {self._timeout} s") from error
            if isinstance(error, TransactionUndone):
                error.ends_at = end
            elif not isinstance(error, DatabaseUnavailable) and self.is_transient(error):
                raise DatabaseUnavailable(describe(error)) from error
            raise

    async def _connect(self, session: AsyncSession, read_only: bool) -> dict[Any, Any]:
        """Begin, and return what the connection has noted."""
        try:
            connection = await session.connection(execution_options={READ_ONLY: read_only})
        except SQLAlchemyError as error:
            # Whatever it is: the request has not asked for anything yet.
            raise DatabaseUnavailable(describe(error)) from error
        notes: dict[Any, Any] = connection.sync_connection.info  # type: ignore[union-attr]
        notes.pop(UNDONE, None)
        return notes

    async def _give_back(self, session: AsyncSession, end: float) -> None:
        """Roll back, unless that fails or takes until `end`: then the connection is closed."""
        now = asyncio.get_running_loop().time()
        if now < end:
            with suppress(Exception):  # what the caller did wrong, or was told, is what counts
                async with asyncio.timeout_at(min(end, now + _ROLLBACK)):
                    await session.close()
                    return
        await session.invalidate()
        await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watch.closing = True
        try:
            async with asyncio.timeout(self._timeout):
                await self._engine.dispose()
        except TimeoutError:
            self._watch.closing = False
            await self._engine.dispose()
