"""PostgreSQL away, frozen, back again, or too busy: a clear error in bounded time, and recovery."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.database import DatabaseUnavailable
from app.database.engine import Database
from app.database.postgres import create_database
from devservers.postgres import EmbeddedPostgres
from devservers.waiting import HANG, until
from tests.support.turns import no_longer_than

TIMEOUT = 3.0
"""Seconds: more than any answer takes on a busy machine."""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as postgres:
        yield postgres


@asynccontextmanager
async def open_database(
    server: EmbeddedPostgres, *, patience: float = TIMEOUT
) -> AsyncIterator[Database]:
    database = create_database(server.url, pool_size=2, pool_timeout=HANG, timeout=patience)
    async with database:
        yield database


async def fails_in_time(database: Database) -> None:
    async with no_longer_than(TIMEOUT):
        with pytest.raises(DatabaseUnavailable):
            await database.ping()


async def test_killed_it_fails_at_once_and_recovers_by_itself(server: EmbeddedPostgres) -> None:
    async with open_database(server) as database:
        await database.ping()
        server.kill()
        await fails_in_time(database)
        server.restart()
        for _ in range(5):
            await database.ping()


async def test_restarted_unseen_it_costs_no_request(server: EmbeddedPostgres) -> None:
    async with open_database(server) as database:
        await asyncio.gather(database.ping(), database.ping())
        server.kill()
        server.restart()
        for _ in range(5):
            await database.ping()


@pytest.mark.slow
async def test_frozen_nobody_hangs_and_thawed_it_recovers(server: EmbeddedPostgres) -> None:
    async with open_database(server) as database:
        await asyncio.gather(database.ping(), database.ping())
        server.freeze()
        try:
            await asyncio.gather(*(fails_in_time(database) for _ in range(6)))
        finally:
            server.thaw()
        for _ in range(5):
            await database.ping()


async def test_never_there_the_service_can_start(server: EmbeddedPostgres) -> None:
    nowhere = server.url.replace(f":{server.port}/", ":1/")
    database = create_database(nowhere, pool_size=1, pool_timeout=HANG, timeout=TIMEOUT)
    async with database:
        await fails_in_time(database)


@pytest.mark.slow
async def test_a_slow_statement_is_ended_on_the_server_too(server: EmbeddedPostgres) -> None:
    async with open_database(server) as database, open_database(server, patience=HANG) as observer:
        async with no_longer_than(TIMEOUT):
            with pytest.raises(DatabaseUnavailable):
                await execute(database, "SELECT pg_sleep(600) /* slow */")

        async def is_over() -> bool:
            running = "state = 'active' AND query LIKE 'SELECT pg_sleep%slow%'"
            found = f"SELECT count(*) FROM pg_stat_activity WHERE {running}"
            return not await execute(observer, found)

        await until(is_over, what="the end of what nobody waits for")


async def execute(database: Database, statement: str) -> object:
    async with database.reading() as session:
        return await session.scalar(text(statement))


async def test_a_used_up_pool_is_a_clear_error_and_passes(server: EmbeddedPostgres) -> None:
    async with create_database(server.url, pool_size=2, pool_timeout=0.1, timeout=HANG) as database:
        held, over = asyncio.Barrier(3), asyncio.Event()

        async def hold() -> None:
            async with database.reading():
                await held.wait()
                await over.wait()

        holders = [asyncio.create_task(hold()) for _ in range(2)]
        await held.wait()
        with pytest.raises(DatabaseUnavailable, match="limit of size 2"):
            await database.ping()
        over.set()
        await asyncio.gather(*holders)
        await database.ping()


async def test_a_cancelled_request_gives_its_connection_back(server: EmbeddedPostgres) -> None:
    async with open_database(server, patience=HANG) as database:

        async def hold() -> None:
            async with database.writing() as session:
                await session.execute(text("SELECT pg_sleep(600)"))

        for number in range(6):
            holder = asyncio.create_task(hold())
            await asyncio.sleep(number / 50)  # wherever it is by then
            holder.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holder
        await asyncio.gather(database.ping(), database.ping())


async def test_an_error_in_a_transaction_undoes_it(server: EmbeddedPostgres) -> None:
    async with open_database(server, patience=HANG) as database:
        async with database.writing() as session:
            await session.execute(text("CREATE TABLE IF NOT EXISTS t (n int)"))

        async def fail_half_way() -> None:
            async with database.writing() as session:
                await session.execute(text("INSERT INTO t VALUES (1)"))
                await session.execute(text("SELECT 1 / 0"))

        with pytest.raises(DBAPIError):
            await fail_half_way()
        async with database.reading() as session:
            assert await session.scalar(text("SELECT count(*) FROM t")) == 0


async def test_what_fails_in_a_transaction_is_told_though_its_connection_is_gone(
    server: EmbeddedPostgres,
) -> None:
    async with open_database(server, patience=HANG) as database:

        async def fail() -> None:
            async with database.writing() as session:
                pid = await session.scalar(text("SELECT pg_backend_pid()"))
                await execute(database, f"SELECT pg_terminate_backend({pid}, 60000)")
                raise ZeroDivisionError

        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await fail()
        await asyncio.gather(database.ping(), database.ping())
