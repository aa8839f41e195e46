"""MySQL and MariaDB, through asyncmy."""

from math import ceil

from sqlalchemy.ext.asyncio import create_async_engine

from app.database.engine import Database


def create_database(url: str, *, pool_size: int, pool_timeout: float, timeout: float) -> Database:
    """Make the database; connects on first use. All times in seconds."""
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        # A connection that died while it was idle is replaced, not handed out.
        pool_pre_ping=True,
        # As in PostgreSQL. The servers' own default locks the gaps between rows as well.
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": timeout, "init_command": _session(timeout)},
    )
    return Database(engine, timeout=timeout)


def _session(timeout: float) -> str:
    """What holds for each connection, whatever the server's configuration says."""
    seconds = ceil(timeout)
    return (
        "SET SESSION time_zone = '+00:00'"
        # Too long a value is an error, and not cut.
        ", sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')"
        f", innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}"
        # The server gives up too. Each kind of server reads one of these comments: MariaDB ends
        # any statement, MySQL only those that read.
        f"/*M!100100 , max_statement_time = {timeout} */"
        f"/*!80000 , max_execution_time = {ceil(timeout * 1000)} */"
    )
