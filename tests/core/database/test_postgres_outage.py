"""PostgreSQL away, frozen, back again, or too busy: a clear error in bounded time, and recovery."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.database import DatabaseUnavailable
from app.database.engine import Database
from app.database.postgres import create_database
from devservers.postgres import EmbeddedPostgres

TIMEOUT = 0.5
# What it takes beyond the timeouts on a machine that does other things too.
SLACK = 1.5


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as postgres:
        yield postgres


@asynccontextmanager
async def open_database(
    server: EmbeddedPostgres, *, patience: float = TIMEOUT
) -> AsyncIterator[Database]:
    database = create_database(server.url, pool_size=2, pool_timeout=0.2, timeout=patience)
    async with database:
        yield database


async def seconds_to_fail(database: Database) -> float:
    started = monotonic()
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
    return monotonic() - started


async def test_killed_it_fails_at_once_and_recovers_by_itself(server: EmbeddedPostgres) -> None:
    async with open_database(server) as database:
        await database.ping()
        server.kill()
        assert await seconds_to_fail(database) < TIMEOUT + SLACK
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


async def test_frozen_nobody_hangs_and_thawed_it_recovers(server: EmbeddedPostgres) -> None:
    async with open_database(server) as database:
        await asyncio.gather(database.ping(), database.ping())
        server.freeze()
        try:
            waits = await asyncio.gather(*(seconds_to_fail(database) for _ in range(6)))
            assert max(waits) < TIMEOUT + SLACK
        finally:
            server.thaw()
        for _ in range(5):
            await database.ping()


async def test_never_there_the_service_can_start(server: EmbeddedPostgres) -> None:
    nowhere = server.url.replace(f":{server.port}/", ":1/")
    database = create_database(nowhere, pool_size=1, pool_timeout=0.2, timeout=TIMEOUT)
    async with database:
        assert await seconds_to_fail(database) < TIMEOUT + SLACK


async def test_a_slow_statement_is_ended_on_the_server_too(server: EmbeddedPostgres) -> None:
    async with open_database(server) as database, open_database(server, patience=5) as observer:
        started = monotonic()
        with pytest.raises(DatabaseUnavailable):
            async with database.reading() as session:
                await session.execute(text("SELECT pg_sleep(20) /* slow */"))
        assert monotonic() - started < TIMEOUT + SLACK
        end = monotonic() + 5
        running = text(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE "
            "'SELECT pg_sleep%slow%'"
        )
        while True:
            async with observer.reading() as session:
                if not await session.scalar(running):
                    return
            assert monotonic() < end, "the server still works for nobody"
            await asyncio.sleep(0.05)


async def test_a_used_up_pool_is_a_clear_error_and_passes(server: EmbeddedPostgres) -> None:
    async with open_database(server, patience=3) as database:

        async def hold() -> None:
            async with database.reading() as session:
                await session.execute(text("SELECT pg_sleep(0.6)"))

        holders = [asyncio.create_task(hold()) for _ in range(2)]
        await asyncio.sleep(0.2)
        assert await seconds_to_fail(database) < 0.2 + SLACK
        await asyncio.gather(*holders)
        await database.ping()


async def test_a_cancelled_request_gives_its_connection_back(server: EmbeddedPostgres) -> None:
    async with open_database(server, patience=3) as database:

        async def hold() -> None:
            async with database.writing() as session:
                await session.execute(text("SELECT pg_sleep(5)"))

        for _ in range(6):
            holder = asyncio.create_task(hold())
            await asyncio.sleep(0.05)
            holder.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holder
        await asyncio.gather(database.ping(), database.ping())


async def test_an_error_in_a_transaction_undoes_it(server: EmbeddedPostgres) -> None:
    async with open_database(server, patience=3) as database:
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
