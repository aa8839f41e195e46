"""MySQL and MariaDB: what holds for each connection, and what the server does when we give up."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker

from app.database import DatabaseUnavailable
from app.database.engine import Database
from app.database.mysql import create_database
from app.database.retry import TransactionUndone
from devservers.mysql import EmbeddedMySQL
from devservers.waiting import HANG, until
from tests.core.database.backends import installed
from tests.support.turns import no_longer_than

pytestmark = pytest.mark.slow

TIMEOUT = 3.0
"""Seconds: more than any answer takes on a busy machine."""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedMySQL]:
    # One that was set up in another country, and with care for nothing.
    def careless() -> EmbeddedMySQL:
        return EmbeddedMySQL(
            character_set_server="latin1",
            default_time_zone="+09:00",
            sql_mode="NO_ENGINE_SUBSTITUTION",
        )

    with installed(careless) as server:
        yield server


def opened(
    server: EmbeddedMySQL, *, patience: float = TIMEOUT
) -> AbstractAsyncContextManager[Database]:
    return create_database(server.url, pool_size=2, pool_timeout=HANG, timeout=patience)


async def scalar(database: Database, query: str) -> object:
    async with database.reading() as session:
        return await session.scalar(text(query))


async def test_the_servers_configuration_does_not_matter(server: EmbeddedMySQL) -> None:
    async with opened(server) as database:
        assert await scalar(database, "SELECT '🎉'") == "🎉"
        now = await scalar(database, "SELECT NOW()")
        assert isinstance(now, datetime)
        assert abs((now.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()) < 60
        assert "STRICT_TRANS_TABLES" in str(await scalar(database, "SELECT @@sql_mode"))


async def test_too_long_a_value_is_an_error_and_not_cut(server: EmbeddedMySQL) -> None:
    async with opened(server, patience=HANG) as database:
        async with database.writing() as session:
            await session.execute(text("CREATE TABLE short (name VARCHAR(3))"))
        with pytest.raises(DBAPIError):
            async with database.writing() as session:
                await session.execute(text("INSERT INTO short VALUES ('long')"))
        assert await scalar(database, "SELECT COUNT(*) FROM short") == 0


async def test_a_slow_statement_is_ended_on_the_server_too(server: EmbeddedMySQL) -> None:
    async with opened(server) as database, opened(server, patience=HANG) as observer:
        async with no_longer_than(TIMEOUT):
            with pytest.raises(DatabaseUnavailable):
                await scalar(database, "SELECT SLEEP(600) /* slow */")
        running = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%slow */'"

        async def is_over() -> bool:
            return not await scalar(observer, running)

        await until(is_over, what="the end of what nobody waits for")


async def test_the_wait_for_a_row_is_bounded(server: EmbeddedMySQL) -> None:
    async with opened(server, patience=HANG) as first, opened(server) as second:
        async with first.writing() as session:
            await session.execute(text("CREATE TABLE counter (n INT)"))
        async with first.writing() as session:
            await session.execute(text("INSERT INTO counter VALUES (0)"))
        async with first.writing() as session:
            await session.execute(text("UPDATE counter SET n = 1"))
            async with no_longer_than(TIMEOUT):
                with pytest.raises(DatabaseUnavailable):
                    async with second.writing() as other:
                        await other.execute(text("UPDATE counter SET n = 2"))
        assert await scalar(second, "SELECT n FROM counter") == 1


async def test_replacing_what_has_grown_old_is_no_abortion_to_the_server(
    server: EmbeddedMySQL,
) -> None:
    async def status(name: str) -> int:
        async with database.reading() as session:
            row = await session.execute(text(f"SHOW GLOBAL STATUS LIKE '{name}'"))
            return int(row.one()[1])

    async with create_database(
        server.url, pool_size=1, pool_timeout=HANG, timeout=HANG
    ) as database:
        before, made = await status("Aborted_clients"), await status("Connections")
        database.engine.pool._recycle = 0
        for _ in range(5):
            await asyncio.sleep(0.01)  # the age of a connection is compared with >
            await database.ping()
        database.engine.pool._recycle = -1
        assert await status("Connections") >= made + 5

        async def only_ours_is_left() -> bool:
            return await status("Threads_connected") == 1

        await until(only_ours_is_left)
        assert await status("Aborted_clients") == before


async def test_restarted_unseen_it_costs_no_request(server: EmbeddedMySQL) -> None:
    async with opened(server) as database:
        await asyncio.gather(database.ping(), database.ping())
        server.kill()
        server.restart()
        for _ in range(5):
            await database.ping()


@pytest.mark.parametrize("as_the_service_does", [True, False], ids=["", "control"])
async def test_who_goes_on_after_a_deadlock_does_not_commit_the_rest(
    server: EmbeddedMySQL, as_the_service_does: bool
) -> None:
    """The server has begun another transaction by then, and would commit that."""
    async with opened(server, patience=HANG) as database:
        async with database.writing() as session:
            await session.execute(text("DROP TABLE IF EXISTS half"))
            await session.execute(text("CREATE TABLE half (n INT PRIMARY KEY, v INT)"))
        async with database.writing() as session:
            await session.execute(text("INSERT INTO half VALUES (1, 0), (2, 0), (3, 0), (4, 0)"))
        sessions = async_sessionmaker(database.engine)
        begin = database.writing if as_the_service_does else sessions.begin
        meet = asyncio.Barrier(2)

        async def careless(first: int, second: int, mine: int) -> None:
            add = text("UPDATE half SET v = v + 1 WHERE n = :n")
            async with begin() as session:
                await session.execute(add, {"n": first})
                await meet.wait()
                with suppress(TransactionUndone):
                    await session.execute(add, {"n": second})
                await session.execute(add, {"n": mine})

        ends = await asyncio.gather(careless(1, 2, 3), careless(2, 1, 4), return_exceptions=True)
        async with database.reading() as session:
            found = list(await session.scalars(text("SELECT v FROM half ORDER BY n")))
    if as_the_service_does:
        assert sorted(type(end).__name__ for end in ends) == ["NoneType", "TransactionUndone"]
        assert sorted(found[2:]) == [0, 1]
    else:
        assert list(ends) == [None, None]
        assert found == [1, 1, 1, 1]  # of one of them a half
