"""Two PostgreSQL servers, of which the second takes over: a URL with both is all it takes."""

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from app.database import DatabaseUnavailable, postgres
from app.database.engine import Database
from devservers.postgres import EmbeddedPostgres
from devservers.waiting import HANG, until
from tests.support.faultproxy import FaultProxy
from tests.support.standby import StandbyPostgres, together

pytestmark = pytest.mark.slow


@pytest.fixture
def pair() -> Iterator[tuple[EmbeddedPostgres, StandbyPostgres]]:
    with EmbeddedPostgres() as first, StandbyPostgres(first) as second:
        yield first, second


async def execute(database: Database, *statements: str) -> None:
    async with database.writing() as session:
        for statement in statements:
            await session.execute(text(statement))


async def replicate_before_commit(server: EmbeddedPostgres) -> None:
    """From now on the standby has whatever was committed."""
    async with postgres.create_database(
        server.url, pool_size=1, pool_timeout=HANG, timeout=HANG
    ) as database:
        autocommit = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection:
            await connection.execute(text("ALTER SYSTEM SET synchronous_standby_names = '*'"))
            await connection.execute(text("SELECT pg_reload_conf()"))

            async def is_synchronous() -> bool:
                state = await connection.scalar(text("SELECT sync_state FROM pg_stat_replication"))
                return bool(state == "sync")

            await until(is_synchronous, what="synchronous replication")


async def test_writers_go_on_with_the_other_server_and_nothing_is_lost(
    pair: tuple[EmbeddedPostgres, StandbyPostgres],
) -> None:
    first, second = pair
    await replicate_before_commit(first)
    known: list[int] = []
    failures: list[Exception] = []
    async with postgres.create_database(
        together(first, second), pool_size=4, pool_timeout=HANG, timeout=5
    ) as database:
        await execute(database, "CREATE TABLE written (n int)")
        over = asyncio.Event()

        async def keep_writing(writer: int) -> None:
            number = writer
            while not over.is_set():
                number += 4
                try:
                    await execute(database, f"INSERT INTO written VALUES ({number})")
                except Exception as error:
                    failures.append(error)
                    await asyncio.sleep(0.01)
                else:
                    known.append(number)

        writers = [asyncio.create_task(keep_writing(writer)) for writer in range(4)]
        await until(lambda: len(known) > 40)
        first.kill()
        await until(lambda: len(failures) > 4)
        await asyncio.to_thread(second.promote)
        before = len(known)
        await until(lambda: len(known) > before + 40, what="writes on the new primary")
        over.set()
        await asyncio.gather(*writers)
        async with database.reading() as session:
            there = set(await session.scalars(text("SELECT n FROM written")))
    assert {type(failure) for failure in failures} == {DatabaseUnavailable}
    assert set(known) <= there


async def test_a_host_that_swallows_everything_leaves_time_for_the_next(
    pair: tuple[EmbeddedPostgres, StandbyPostgres],
) -> None:
    first, second = pair
    async with FaultProxy(first.host, first.port) as proxy:
        await proxy.black_hole()
        url = together(first, second).replace(str(first.port), str(proxy.port))
        await asyncio.to_thread(second.promote)
        # A caller who waited for the first host only would be told so after that time.
        async with postgres.create_database(
            url, pool_size=2, pool_timeout=HANG, timeout=6
        ) as database:
            await execute(database, "SELECT 1")
            # The next connections are made where that one was.
            knocks = proxy.accepted
            await asyncio.gather(*(execute(database, "SELECT pg_sleep(0.1)") for _ in range(2)))
            assert proxy.accepted == knocks
