"""What an error of the database means: decided by its code, and the same wherever it is raised."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.database import DatabaseUnavailable, mysql, postgres, sqlite
from app.database.engine import Database
from app.database.retry import TransactionUndone
from devservers.mysql import EmbeddedMySQL
from devservers.postgres import EmbeddedPostgres
from devservers.waiting import HANG, until
from tests.core.database.backends import installed

FAULT, TRANSIENT, UNDONE = DBAPIError, DatabaseUnavailable, TransactionUndone

STATES = {
    "08000": TRANSIENT,
    "08006": TRANSIENT,
    "08P01": TRANSIENT,
    "25006": TRANSIENT,
    "25P03": TRANSIENT,
    "25P04": TRANSIENT,
    "26000": TRANSIENT,
    "40000": TRANSIENT,
    "40001": UNDONE,
    "40002": UNDONE,
    "40003": TRANSIENT,  # nobody knows whether it was undone
    "40P01": UNDONE,
    "53000": TRANSIENT,
    "53100": TRANSIENT,
    "53200": TRANSIENT,
    "53300": TRANSIENT,
    "55P03": TRANSIENT,
    "57000": TRANSIENT,
    "57014": TRANSIENT,
    "57P01": TRANSIENT,
    "57P02": TRANSIENT,
    "57P03": TRANSIENT,
    "57P04": TRANSIENT,
    "57P05": TRANSIENT,
    "58000": TRANSIENT,
    "58030": TRANSIENT,
    "0A000": FAULT,
    "21000": FAULT,
    "22012": FAULT,
    "22P02": FAULT,
    "23505": FAULT,
    "23503": FAULT,
    "25P02": FAULT,
    "42501": FAULT,
    "42601": FAULT,
    "42P01": FAULT,
    "55000": FAULT,
    "P0001": FAULT,
    "XX000": FAULT,
}
NUMBERS = {
    1020: UNDONE,
    1021: TRANSIENT,
    1040: TRANSIENT,
    1041: TRANSIENT,
    1047: TRANSIENT,
    1053: TRANSIENT,
    1114: TRANSIENT,
    1203: TRANSIENT,
    1205: TRANSIENT,
    1213: UNDONE,
    1226: TRANSIENT,
    1317: TRANSIENT,
    1412: UNDONE,
    1615: UNDONE,
    1792: TRANSIENT,
    1836: TRANSIENT,
    1927: TRANSIENT,
    1969: TRANSIENT,
    3024: TRANSIENT,
    3572: TRANSIENT,
    1044: FAULT,
    1054: FAULT,
    1062: FAULT,
    1064: FAULT,
    1142: FAULT,
    1146: FAULT,
    1290: FAULT,  # as of an option that has nothing to do with reading only
    1366: FAULT,
    1406: FAULT,
    1452: FAULT,
}
GONE = {"08000", "08006", "08P01", "25006", "25P03", "25P04", "57P01", "57P02", "57P03", "57P05"}
GONE_NUMBERS = {1047, 1053, 1792, 1836, 1927}


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture(scope="module")
def mysql_server() -> Iterator[EmbeddedMySQL]:
    with installed(EmbeddedMySQL) as server:
        yield server


@pytest.fixture
async def on_postgres(postgres_server: EmbeddedPostgres) -> AsyncIterator[Database]:
    url = postgres_server.url
    async with postgres.create_database(url, pool_size=2, pool_timeout=HANG, timeout=HANG) as it:
        yield it


@pytest.fixture
async def on_mysql(mysql_server: EmbeddedMySQL) -> AsyncIterator[Database]:
    url = mysql_server.url
    async with mysql.create_database(url, pool_size=2, pool_timeout=HANG, timeout=HANG) as it:
        yield it


@pytest.fixture
async def on_sqlite(tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"
    async with sqlite.create_database(url, pool_size=2, pool_timeout=HANG, timeout=HANG) as it:
        await execute(it, "CREATE TABLE t (n INT UNIQUE)")
        yield it


async def execute(database: Database, *statements: str, **values: Any) -> object:
    """Execute statements in one transaction; what the last of them selects."""
    async with database.writing() as session:
        for statement in statements:
            result: Any = await session.execute(text(statement), values)
    return result.scalar() if result.returns_rows else None


async def somebody_else(database: Database, statement: str, **values: Any) -> object:
    """The same, of another task: one task has one transaction."""
    return await asyncio.create_task(execute(database, statement, **values))


async def raises(database: Database, expected: type[Exception], *statements: str) -> Exception:
    """Check what statements raise in a transaction, and on the engine without one of ours."""
    with pytest.raises(expected) as raised:
        await execute(database, *statements)
    assert type(raised.value) is expected or expected is FAULT
    assert database.is_transient(raised.value) is (expected is not FAULT)

    async def on_the_engine() -> None:
        async with database.engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    with pytest.raises(expected):
        await on_the_engine()
    return raised.value


@pytest.mark.parametrize(("state", "expected"), STATES.items())
async def test_states_of_postgresql(
    on_postgres: Database, state: str, expected: type[Exception]
) -> None:
    raise_it = f"DO $$ BEGIN RAISE 'on purpose' USING ERRCODE = '{state}'; END $$"
    before = await execute(on_postgres, "SELECT pg_backend_pid()")
    error = await raises(on_postgres, expected, raise_it)
    assert "DO $$" not in str(error) or expected is FAULT
    after = await execute(on_postgres, "SELECT pg_backend_pid()")
    assert (before != after) is (state in GONE)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected"), NUMBERS.items())
async def test_numbers_of_mysql(on_mysql: Database, number: int, expected: type[Exception]) -> None:
    raise_it = f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'on purpose'"
    before = await execute(on_mysql, "SELECT connection_id()")
    await raises(on_mysql, expected, raise_it)
    after = await execute(on_mysql, "SELECT connection_id()")
    assert (before != after) is (number in GONE_NUMBERS)


@pytest.mark.slow
async def test_a_mysql_that_only_reads_says_so_in_its_message(on_mysql: Database) -> None:
    text_of_it = "The server is running with the --read-only option so it cannot execute this"
    number = "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1290"
    await raises(on_mysql, TRANSIENT, f"{number}, MESSAGE_TEXT = '{text_of_it}'")


async def test_a_deadlock_of_postgresql(on_postgres: Database) -> None:
    await execute(on_postgres, "DROP TABLE IF EXISTS pair", "CREATE TABLE pair (n int, v int)")
    await execute(on_postgres, "INSERT INTO pair VALUES (1, 0), (2, 0)")
    outcomes = await crosswise(on_postgres)
    assert sorted(type(one).__name__ for one in outcomes) == ["NoneType", "TransactionUndone"]


@pytest.mark.slow
async def test_a_deadlock_of_mysql(on_mysql: Database) -> None:
    await execute(on_mysql, "DROP TABLE IF EXISTS pair")
    await execute(on_mysql, "CREATE TABLE pair (n int PRIMARY KEY, v int)")
    await execute(on_mysql, "INSERT INTO pair VALUES (1, 0), (2, 0)")
    outcomes = await crosswise(on_mysql)
    assert sorted(type(one).__name__ for one in outcomes) == ["NoneType", "TransactionUndone"]


async def crosswise(database: Database) -> list[BaseException | None]:
    both = asyncio.Barrier(2)

    async def change(first: int, second: int) -> None:
        async with database.writing() as session:
            await session.execute(text("UPDATE pair SET v = v + 1 WHERE n = :n"), {"n": first})
            await both.wait()
            await session.execute(text("UPDATE pair SET v = v + 1 WHERE n = :n"), {"n": second})

    return list(await asyncio.gather(change(1, 2), change(2, 1), return_exceptions=True))


async def test_a_row_that_somebody_else_has_locked(on_postgres: Database) -> None:
    await execute(on_postgres, "DROP TABLE IF EXISTS busy", "CREATE TABLE busy (n int)")
    await execute(on_postgres, "INSERT INTO busy VALUES (1)")
    async with on_postgres.writing() as session:
        await session.execute(text("SELECT * FROM busy FOR UPDATE"))
        with pytest.raises(DatabaseUnavailable):
            await somebody_else(on_postgres, "SELECT * FROM busy FOR UPDATE NOWAIT")


async def test_a_connection_that_an_operator_has_ended(on_postgres: Database) -> None:
    async def end_it_half_way() -> None:
        async with on_postgres.writing() as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            await somebody_else(on_postgres, "SELECT pg_terminate_backend(:pid)", pid=pid)
            await session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        await end_it_half_way()
    await on_postgres.ping()


async def test_a_statement_that_an_operator_has_cancelled(on_postgres: Database) -> None:
    running = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600) /* mine */'"

    async def cancelled() -> bool:
        pid = await execute(on_postgres, running)
        return bool(pid and await execute(on_postgres, "SELECT pg_cancel_backend(:pid)", pid=pid))

    sleeping = asyncio.create_task(execute(on_postgres, "SELECT pg_sleep(600) /* mine */"))
    await until(cancelled, what="the statement")
    with pytest.raises(DatabaseUnavailable, match="QueryCanceled"):
        await sleeping


async def test_a_value_that_does_not_fit_is_nobodys_outage(on_postgres: Database) -> None:
    # The driver's InterfaceError, which has no code: the connection is as good as before.
    with pytest.raises(DBAPIError) as raised:
        await execute(on_postgres, "SELECT cast(:n as int)", n="many")
    assert not on_postgres.is_transient(raised.value)


async def test_a_plan_for_a_table_that_was_changed(on_postgres: Database) -> None:
    await execute(on_postgres, "DROP TABLE IF EXISTS wide", "CREATE TABLE wide (n int)")
    async with on_postgres.engine.connect() as connection:
        await connection.execute(text("SELECT n FROM wide"))
        await connection.commit()
        await execute(on_postgres, "ALTER TABLE wide ALTER COLUMN n TYPE bigint")
        with pytest.raises(TransactionUndone):
            await connection.execute(text("SELECT n FROM wide"))


@pytest.mark.parametrize(
    ("expected", "statements"),
    [
        pytest.param(FAULT, ["SELECT * FROM nowhere"], id="no such table"),
        pytest.param(FAULT, ["SELEKT 1"], id="no SQL"),
        pytest.param(FAULT, ["INSERT INTO t VALUES (1), (1)"], id="twice"),
        pytest.param(TRANSIENT, ["PRAGMA query_only = ON", "DELETE FROM t"], id="read-only"),
    ],
)
async def test_codes_of_sqlite(
    on_sqlite: Database, expected: type[Exception], statements: list[str]
) -> None:
    await raises(on_sqlite, expected, *statements)
    await execute(on_sqlite, "INSERT INTO t VALUES (1)")


async def test_a_full_disk_of_sqlite(on_sqlite: Database) -> None:
    pages = await execute(on_sqlite, "PRAGMA page_count")
    fill = "WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many LIMIT 100000)"
    await raises(
        on_sqlite,
        TRANSIENT,
        f"PRAGMA max_page_count = {pages}",
        f"{fill} INSERT INTO t SELECT n FROM many",
    )


async def test_a_writer_in_the_way_of_sqlite(on_sqlite: Database) -> None:
    url = on_sqlite.engine.url.render_as_string()
    async with sqlite.create_database(url, pool_size=1, pool_timeout=HANG, timeout=0.2) as hasty:
        async with on_sqlite.writing() as session:
            await session.execute(text("INSERT INTO t VALUES (1)"))
            with pytest.raises(DatabaseUnavailable) as raised:
                await execute(hasty, "INSERT INTO t VALUES (2)")
        assert not isinstance(raised.value, TransactionUndone)


async def test_a_reader_of_sqlite_that_writes_after_somebody_else_has(on_sqlite: Database) -> None:
    async def write_as_a_reader() -> None:
        async with on_sqlite.reading() as session:
            await session.execute(text("SELECT * FROM t"))
            await execute(on_sqlite, "INSERT INTO t VALUES (1)")
            await session.execute(text("INSERT INTO t VALUES (2)"))

    with pytest.raises(TransactionUndone):
        await write_as_a_reader()


@pytest.mark.parametrize(
    ("error", "is_transient"),
    [
        (ConnectionRefusedError(111, "Connection refused"), True),
        (TimeoutError(), True),
        (FileNotFoundError(2, "No such file or directory", "/tmp/report.csv"), False),
        (PermissionError(13, "Permission denied", "/etc/shadow"), False),
    ],
)
async def test_a_file_that_a_handler_cannot_open_is_no_outage(
    on_sqlite: Database, error: OSError, is_transient: bool
) -> None:
    assert on_sqlite.is_transient(error) is is_transient
