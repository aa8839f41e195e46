"""What the database has undone is repeated, once, and only where nothing was committed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from app.database import DatabaseUnavailable, postgres
from app.database.engine import Database
from app.database.retry import TransactionUndone, retry_once
from devservers.postgres import EmbeddedPostgres
from devservers.waiting import HANG
from tests.support.turns import no_longer_than

UNDO = "DO $$ BEGIN RAISE 'on purpose' USING ERRCODE = '40001'; END $$"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@asynccontextmanager
async def opened(server: EmbeddedPostgres, *, patience: float = HANG) -> AsyncIterator[Database]:
    async with postgres.create_database(
        server.url, pool_size=10, pool_timeout=HANG, timeout=patience
    ) as database:
        yield database


@pytest.fixture
async def database(server: EmbeddedPostgres) -> AsyncIterator[Database]:
    async with opened(server) as database:
        await change(database, "DROP TABLE IF EXISTS t", "CREATE TABLE t (n int, v int)")
        await change(database, "INSERT INTO t VALUES (1, 0), (2, 0)")
        yield database


async def change(database: Database, *statements: str) -> None:
    async with database.writing() as session:
        for statement in statements:
            await session.execute(text(statement))


async def total(database: Database) -> object:
    async with database.reading() as session:
        return await session.scalar(text("SELECT sum(v) FROM t"))


async def test_of_two_that_lock_crosswise_both_succeed(database: Database) -> None:
    """And if they meet again, which a pause makes rare, one of them is told to come back."""
    meet: list[asyncio.Barrier] = []

    @retry_once
    async def move(first: int, second: int) -> None:
        async with database.writing() as session:
            update = text("UPDATE t SET v = v + 1 WHERE n = :n")
            await session.execute(update, {"n": first})
            if meet:  # the first time
                await meet[0].wait()
                meet.clear()
            await session.execute(update, {"n": second})

    moved = 0
    for _ in range(10):
        meet.append(asyncio.Barrier(2))
        ends = await asyncio.gather(move(1, 2), move(2, 1), return_exceptions=True)
        moved += ends.count(None)
        assert await total(database) == 2 * moved
        if not any(ends):
            return
        assert all(end is None or isinstance(end, TransactionUndone) for end in ends)
    pytest.fail("one of them was undone twice, each time")


async def test_readers_do_not_notice_that_a_column_gets_another_type(database: Database) -> None:
    together = asyncio.Barrier(10)

    @retry_once
    async def read() -> object:
        async with database.reading() as session:
            found = await session.scalar(text("SELECT v FROM t WHERE n = 1"))
            await together.wait()  # each on a connection of its own
            return found

    for column_type in ("bigint", "numeric"):
        assert await asyncio.gather(*(read() for _ in range(10))) == [0] * 10
        await change(database, f"ALTER TABLE t ALTER COLUMN v TYPE {column_type}")
        together = asyncio.Barrier(1)
        assert await asyncio.gather(*(read() for _ in range(20))) == [0] * 20
        together = asyncio.Barrier(10)


async def test_what_is_undone_twice_is_an_outage(database: Database) -> None:
    attempts = []

    @retry_once
    async def fail() -> None:
        attempts.append(1)
        await change(database, "UPDATE t SET v = v + 1 WHERE n = 1", UNDO)

    with pytest.raises(DatabaseUnavailable):
        await fail()
    assert len(attempts) == 2
    assert await total(database) == 0


@pytest.mark.parametrize("through_another", [False, True], ids=["itself", "in a repeatable part"])
async def test_what_has_committed_is_not_repeated(
    database: Database, through_another: bool
) -> None:
    async def first() -> None:
        await change(database, "UPDATE t SET v = v + 1 WHERE n = 1")

    @retry_once
    async def both() -> None:
        await (retry_once(first)() if through_another else first())
        await change(database, "UPDATE t SET v = v + 1 WHERE n = 2", UNDO)

    with pytest.raises(TransactionUndone):
        await both()
    assert await total(database) == 1


async def test_what_was_written_in_a_reading_transaction_is_not_repeated(
    database: Database,
) -> None:
    @retry_once
    async def write_where_others_read() -> None:
        async with database.reading() as session:
            await session.execute(text("UPDATE t SET v = v + 1 WHERE n = 1"))
        await change(database, UNDO)

    with pytest.raises(TransactionUndone):
        await write_where_others_read()
    assert await total(database) == 1


async def test_control_what_has_committed_nothing_is_repeated(database: Database) -> None:
    fails = [True]

    @retry_once
    async def write() -> None:
        statements = [UNDO] if fails else []
        fails.clear()
        await change(database, "UPDATE t SET v = v + 1 WHERE n = 2", *statements)

    await write()
    assert await total(database) == 1


@pytest.mark.parametrize("state", ["40003", "25006", "57014", "23505"])
async def test_what_may_not_be_repeated_is_not(database: Database, state: str) -> None:
    attempts = []

    @retry_once
    async def fail() -> None:
        attempts.append(1)
        await change(database, UNDO.replace("40001", state))

    with pytest.raises(Exception, match="on purpose"):
        await fail()
    assert len(attempts) == 1


async def test_both_attempts_take_no_longer_than_one_may(server: EmbeddedPostgres) -> None:
    patience = 2.0
    async with opened(server, patience=patience) as database:
        await database.ping()
        undone: list[bool] = []

        @retry_once
        async def fail() -> None:
            async with database.writing() as session:
                if not undone:
                    await session.execute(text(f"SELECT pg_sleep({patience / 2})"))
                    undone.append(True)
                    await session.execute(text(UNDO))
                await session.execute(text("SELECT pg_sleep(600)"))

        async with no_longer_than(patience):
            with pytest.raises(DatabaseUnavailable):
                await fail()


async def test_within_a_transaction_nothing_is_repeated_but_all_of_it(database: Database) -> None:
    """A part that is repeated by itself would be without what came before it."""
    runs: list[str] = []

    @retry_once
    async def part(session: AsyncSession) -> None:
        runs.append("part")
        if runs.count("part") == 1:
            await session.execute(text(UNDO))
        await session.execute(text("UPDATE t SET v = v + 10"))

    @retry_once
    async def whole() -> None:
        runs.append("whole")
        async with database.writing() as session:
            await session.execute(text("UPDATE t SET v = v + 1"))
            await part(session)

    await whole()
    assert runs == ["whole", "part", "whole", "part"]
    assert await total(database) == 22


async def test_who_goes_on_after_it_was_undone_commits_nothing(database: Database) -> None:
    runs: list[str] = []

    @retry_once
    async def careless() -> None:
        async with database.writing() as session:
            await session.execute(text("UPDATE t SET v = v + 1 WHERE n = 1"))
            if not runs:
                runs.append("undone")
                with suppress(TransactionUndone):
                    await session.execute(text(UNDO))

    await careless()  # and it is repeated as if the error had been let through
    assert runs == ["undone"]
    assert await total(database) == 1


async def test_who_goes_on_after_any_error_is_told_that_nothing_was_committed(
    database: Database,
) -> None:
    async def careless() -> None:
        async with database.writing() as session:
            await session.execute(text("UPDATE t SET v = v + 1 WHERE n = 1"))
            with suppress(DBAPIError):
                await session.execute(text("SELECT 1 / 0"))

    with pytest.raises(DBAPIError, match="nothing was committed"):
        await careless()
    assert await total(database) == 0


async def test_control_the_server_says_nothing_of_it(server: EmbeddedPostgres) -> None:
    engine = create_async_engine(server.url, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.execute(text("CREATE TABLE control (n int)"))
        await connection.commit()
        await connection.execute(text("INSERT INTO control VALUES (1)"))
        with suppress(DBAPIError):
            await connection.execute(text("SELECT 1 / 0"))
        await connection.commit()
        assert await connection.scalar(text("SELECT count(*) FROM control")) == 0


async def test_what_may_fail_is_tried_in_a_savepoint(database: Database) -> None:
    async with database.writing() as session:
        await session.execute(text("UPDATE t SET v = v + 1 WHERE n = 1"))
        with suppress(DBAPIError):
            async with session.begin_nested():
                await session.execute(text("SELECT 1 / 0"))
    assert await total(database) == 1
