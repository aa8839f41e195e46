"""PostgreSQL, through asyncpg."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from app.database.connections import RECYCLE, Driver, Verdict
from app.database.engine import Database
from app.database.replica import Replica, ReplicatedDatabase

# By SQLSTATE, or by its class: https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT = {
    "08",  # the connection
    "40",  # the transaction was undone, or nobody knows
    "53",  # too few resources: connections, memory, disk
    "57",  # an operator, or a timeout, has ended it
    "58",  # the system under the server
    "55P03",  # somebody else holds the lock
    "26000",  # the statement is not known to this server: another one has prepared it
}
_READ_ONLY = "25006"
_UNDONE = {"40001", "40002", "40P01"}
_GONE = {
    _READ_ONLY,  # this server only reads: after a failover, another one writes
    "25P03",  # was idle for too long in a transaction
    "25P04",  # the transaction took too long
    "57P01",  # the server, or this connection, is being shut down
    "57P02",
    "57P03",
    "57P05",
}
_POOLER = (
    " (behind a pooler that gives a connection to one transaction at a time, such as PgBouncer in "
    "transaction mode, set DATABASE_POOLER=transaction)"
)


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

    Args:
        url: with all hosts, if there are several: whichever is writable is used.
        pool_size: connections at a time.
        pool_timeout: the longest wait for one of them.
        timeout: the longest a whole transaction may take.
        connect_args: what else the driver has to know; see the settings.
        replica: answers the reads that may be behind.
        is_replica: this is one, and takes no writes.
    """
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        pool_recycle=RECYCLE,
        connect_args={
            "async_creator_fn": _connector(),
            "timeout": timeout / 3 if is_replica else timeout,  # the primary is asked after it
            "command_timeout": timeout,
            "connection_class": _limited(timeout, read_only=is_replica),
            # Statements of two services never have the same name: behind a pooler, one of them
            # would execute what the other one has prepared. It is SQLAlchemy that keeps them; what
            # asyncpg itself would keep has names that it counts.
            "statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"app_{uuid4().hex}",
            **(connect_args or {}),
        },
    )
    if is_replica:
        return Database(engine, replace(_DRIVER, judge=_judge_replica), timeout=timeout)
    if replica is not None:
        return ReplicatedDatabase(engine, _DRIVER, timeout=timeout, replica=replica)
    return Database(engine, _DRIVER, timeout=timeout)


def _limited(timeout: float, *, read_only: bool) -> type[asyncpg.Connection]:
    """Connections whose server gives up too, and does not go on with what nobody waits for.

    Each transaction says so for itself, together with its BEGIN: poolers take no such parameter
    at the start of a connection, and give the connection to others between transactions.
    """
    limit = f"SET LOCAL statement_timeout = {round(timeout * 1000)};"
    if read_only:
        limit += "SET TRANSACTION READ ONLY;"

    class Limited(asyncpg.Connection):
        async def execute(self, query: str, *args: Any, **options: Any) -> str:
            if query.startswith("BEGIN"):
                query += limit
            done = str(await super().execute(query, *args, **options))
            if done == "ROLLBACK" and query.startswith("COMMIT"):
                # The server itself says nothing of it.
                raise asyncpg.InFailedSQLTransactionError(
                    "nothing was committed, because a statement had failed and the transaction "
                    "went on: raise its error, or try it in session.begin_nested()"
                )
            return done

    return Limited


def _connector() -> Callable[..., Awaitable[asyncpg.Connection]]:
    """Connects to the first host that will do, and first of all to the one that did last time.

    asyncpg by itself would spend all of the time on a host that does not answer.
    """
    last: tuple[str, int] | None = None

    async def connect(*, timeout: float, **options: Any) -> asyncpg.Connection:  # noqa: ASYNC109
        nonlocal last
        hosts, ports = options.pop("host", None), options.pop("port", None)
        if not isinstance(hosts, list):
            return await asyncpg.connect(host=hosts, port=ports, timeout=timeout, **options)
        places = sorted(zip(hosts, ports, strict=True), key=lambda place: place != last)
        now = asyncio.get_running_loop().time
        end = now() + timeout
        errors: list[Exception] = []
        while places:
            share = max(0.01, end - now()) / len(places)
            host, port = place = places.pop(0)
            try:
                made: asyncpg.Connection = await asyncpg.connect(
                    host=host, port=port, timeout=share, **options
                )
            except (OSError, asyncpg.PostgresError, asyncpg.InternalClientError) as error:
                errors.append(error)
            else:
                last = place
                return made
        raise errors[-1]

    return connect


def _code(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def _judge(error: BaseException) -> Verdict:
    cause = error.__cause__ or error  # SQLAlchemy's own error has not always got the code
    code = _code(cause)
    stale = asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError
    if code in _UNDONE or isinstance(cause, stale):
        return Verdict.UNDONE
    ended = getattr(cause, "severity_en", None) in {"FATAL", "PANIC"}
    if code in _GONE or code.startswith("08") or ended:
        return Verdict.GONE
    if isinstance(cause, OSError) or not _TRANSIENT.isdisjoint({code, code[:2]}):
        return Verdict.TRANSIENT
    return Verdict.FAULT


def _judge_replica(error: BaseException) -> Verdict:
    """Of a replica it is a mistake to ask it to write, and no failover."""
    is_write = _code(error.__cause__ or error) == _READ_ONLY
    return Verdict.FAULT if is_write else _judge(error)


def _advice(error: BaseException) -> str:
    is_pooler = _code(error.__cause__ or error) in {"26000", "42P05"}
    return _POOLER if is_pooler and "prepared statement" in str(error) else ""


_DRIVER = Driver(
    judge=_judge,
    ping=lambda connection: connection.execute("SELECT 1"),
    abort=lambda connection: connection.terminate(),
    advice=_advice,
    identity="SELECT concat(system_identifier, ' ', current_database()) FROM pg_control_system()",
)
