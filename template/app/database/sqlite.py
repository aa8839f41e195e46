"""SQLite, through aiosqlite: readers and one writer side by side (WAL)."""

import asyncio
import sqlite3
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import create_async_engine

from app.database.connections import Driver, Verdict
from app.database.engine import READ_ONLY, Database

# By primary result code: https://www.sqlite.org/rescode.html
_TRANSIENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_PERM,
}
_GONE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,  # so is the disk, or the file is another one now
}
_UNDONE = {
    sqlite3.SQLITE_BUSY_SNAPSHOT,  # somebody has written since this transaction first read
    sqlite3.SQLITE_SCHEMA,
}


def create_database(
    url: str,
    *,
    pool_size: int,
    pool_timeout: float,
    timeout: float,
    connect_args: Mapping[str, Any] | None = None,
) -> Database:
    """Make the database; opens the file on first use. All times in seconds."""
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        connect_args={"timeout": timeout, **(connect_args or {})},  # the wait for another writer
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours to send, see below
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later fails at once if another one wrote in
        # between. One that says so from the start waits for its turn.
        read_only = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return Database(engine, _DRIVER, timeout=timeout)


def _judge(error: BaseException) -> Verdict:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return Verdict.TRANSIENT if isinstance(error, OSError) else Verdict.FAULT
    if code in _UNDONE:
        return Verdict.UNDONE
    primary = code & 0xFF
    if primary in _GONE:
        return Verdict.GONE
    return Verdict.TRANSIENT if primary in _TRANSIENT else Verdict.FAULT


_DRIVER = Driver(
    judge=_judge,
    # Its thread leaves what it is computing: whoever closes it waits for that.
    abort=lambda connection: asyncio.ensure_future(connection.interrupt()),
)
