"""MySQL and MariaDB, through asyncmy."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import asyncmy
from sqlalchemy.ext.asyncio import create_async_engine

from app.database.connections import RECYCLE, Driver, Verdict
from app.database.engine import Database
from app.database.replica import Replica, ReplicatedDatabase

# By number: https://mariadb.com/docs/server/reference/error-codes and
# https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
_NO_WRITES = {1290, 1792, 1836}
_GONE = {
    *(1053, 1077, 1079, 1080),  # the server is being shut down
    *(1158, 1159, 1160, 1161, 1184, 1927, 3169, 4031),  # the connection was lost, or ended
    1047,  # Galera: this node is not part of the cluster
    *_NO_WRITES,  # this server only reads: after a failover, another one writes
    *(2002, 2003, 2006, 2013, 2014, 2027, 2055),  # the client's: no connection, or a broken one
    *(3032, 3168),  # offline, not available
}
_UNDONE = {
    1213,  # a deadlock
    1412,  # the table was changed meanwhile
    1614,  # a deadlock, in a distributed transaction
    1615,  # the statement has to be prepared again
    1020,  # the row was changed meanwhile
    3101,  # another member of the group has written first
}
_TRANSIENT = {
    *(1021, 1114),  # the disk is full
    *(1037, 1038, 1041),  # too little memory
    *(1040, 1129, 1203, 1226, 1637),  # too many connections, or transactions
    *(1205, 1206, 3058, 3572),  # somebody else holds the lock
    *(1317, 1969, 3024),  # an operator, or a timeout, has ended the statement
    3100,  # the group could not agree on it
    9001,  # ProxySQL: no server in time
}
_READ_ONLY = "read-only", "read_only"
_QUIT = b"\x01\x00\x00\x00\x01"  # COM_QUIT, a packet of one byte


def create_database(
    url: str,
    *,
    pool_size: int,
    pool_timeout: float,
    timeout: float,
    connect_args: Mapping[str, Any] | None = None,
    replica: Replica | None = None,
    is_replica: bool = False,
) -> Database:
    """Make the database; connects on first use. All times in seconds.

    `replica` answers the reads that may be behind; one `is_replica` and takes no writes.
    """
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        pool_recycle=RECYCLE,
        # As in PostgreSQL. The servers' own default locks the gaps between rows as well.
        isolation_level="READ COMMITTED",
        connect_args={
            "connect_timeout": timeout,
            "async_creator_fn": _connector(timeout / 3) if is_replica else asyncmy.connect,
            "init_command": _session(timeout, read_only=is_replica),
            **(connect_args or {}),
        },
    )
    if is_replica:
        return Database(engine, replace(_DRIVER, judge=_judge_replica), timeout=timeout)
    if replica is not None:
        return ReplicatedDatabase(engine, _DRIVER, timeout=timeout, replica=replica)
    return Database(engine, _DRIVER, timeout=timeout)


def _connector(timeout: float) -> Callable[..., Awaitable[Any]]:
    """Connects within these seconds, the handshake included, so that the primary can be asked."""

    async def connect(**options: Any) -> Any:
        async with asyncio.timeout(timeout):
            return await asyncmy.connect(**options)

    return connect


def _session(timeout: float, *, read_only: bool) -> str:
    """What holds for each connection, whatever the server's configuration says."""
    seconds = ceil(timeout)
    only = "/*M!100100 , tx_read_only = 1 *//*!80000 , transaction_read_only = 1 */"
    return (
        "SET SESSION time_zone = '+00:00'"
        # Too long a value is an error, and not cut.
        ", sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')"
        f", innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}"
        # The server gives up too. Each kind of server reads one of these comments: MariaDB ends
        # any statement, MySQL only those that read.
        f"/*M!100100 , max_statement_time = {timeout} */"
        f"/*!80000 , max_execution_time = {ceil(timeout * 1000)} */"
        f"{only if read_only else ''}"
    )


def _judge(error: BaseException) -> Verdict:
    number = error.args[0] if error.args else None
    if number == 1290 and not any(words in str(error) for words in _READ_ONLY):
        return Verdict.FAULT  # another option forbids it, such as --secure-file-priv
    if number in _GONE:
        return Verdict.GONE
    if number in _UNDONE:
        return Verdict.UNDONE
    return (
        Verdict.TRANSIENT if number in _TRANSIENT or isinstance(error, OSError) else Verdict.FAULT
    )


def _judge_replica(error: BaseException) -> Verdict:
    """Of a replica it is a mistake to ask it to write, and no failover."""
    is_write = bool(error.args) and error.args[0] in _NO_WRITES
    return Verdict.FAULT if is_write else _judge(error)


def _leave(connection: Any) -> None:
    """Close a connection that is idle. Without a word, the server would log that it was aborted."""
    if connection._transport is not None:
        connection._transport.write(_QUIT)
    connection.close()


_DRIVER = Driver(
    judge=_judge,
    ping=lambda connection: connection.ping(reconnect=False),
    abort=lambda connection: connection.close(),
    leave=_leave,
    # Replicas have no name in common. What they do have is the names of the tables.
    identity="SELECT concat(database(), ' ', md5(group_concat(table_name ORDER BY table_name))) "
    "FROM information_schema.tables WHERE table_schema = database()",
)
