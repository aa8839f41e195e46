"""PgBouncer between the service and PostgreSQL, in both of its modes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text

from app.database import DatabaseUnavailable, postgres
from app.database.engine import Database
from devservers.postgres import EmbeddedPostgres
from devservers.waiting import HANG
from tests.core.database.backends import POOLED_TRANSACTIONS, installed
from tests.support.pgbouncer import EmbeddedPgBouncer

pytestmark = pytest.mark.slow

CLIENTS = 8
SERVERS = 2


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture(scope="module")
def by_session(server: EmbeddedPostgres) -> Iterator[EmbeddedPgBouncer]:
    with installed(lambda: EmbeddedPgBouncer(server.url, mode="session")) as pooler:
        yield pooler


@pytest.fixture(scope="module")
def by_transaction(server: EmbeddedPostgres) -> Iterator[EmbeddedPgBouncer]:
    # Fewer connections to the server than clients: each transaction gets any of them.
    few = {"default_pool_size": SERVERS}
    with installed(lambda: EmbeddedPgBouncer(server.url, mode="transaction", **few)) as pooler:
        yield pooler


@asynccontextmanager
async def opened(
    server: EmbeddedPostgres | EmbeddedPgBouncer, **connect_args: Any
) -> AsyncIterator[Database]:
    async with postgres.create_database(
        server.url,
        pool_size=CLIENTS,
        pool_timeout=HANG,
        timeout=HANG,
        connect_args=connect_args,
    ) as database:
        yield database


async def work(database: Database, number: int) -> int:
    """Transactions of several statements, some of which others send as well."""
    for round_ in range(5):
        async with database.writing() as session:
            values = {"n": number, "m": round_}
            query = text(f"SELECT cast(:n as int) + cast(:m as int) + {number % 3} * 0")
            assert await session.scalar(query, values) == number + round_
            # Types that the driver has to ask the server for.
            await session.execute(text("SELECT jsonb_build_array(1), ARRAY[1, 2], now()"))
            assert await session.scalar(text("SHOW statement_timeout")) == "1min"
    return number


async def at_once(database: Database) -> list[int | BaseException]:
    clients = (work(database, number) for number in range(CLIENTS))
    return list(await asyncio.gather(*clients, return_exceptions=True))


async def test_a_session_of_its_own_needs_no_setting(by_session: EmbeddedPgBouncer) -> None:
    async with opened(by_session) as database:
        assert await at_once(database) == list(range(CLIENTS))


async def test_a_connection_for_each_transaction(by_transaction: EmbeddedPgBouncer) -> None:
    async with (
        opened(by_transaction, **POOLED_TRANSACTIONS) as database,
        opened(by_transaction, **POOLED_TRANSACTIONS) as another,
    ):
        for outcomes in await asyncio.gather(at_once(database), at_once(another)):
            assert outcomes == list(range(CLIENTS))


async def test_without_the_setting_an_error_names_it(by_transaction: EmbeddedPgBouncer) -> None:
    async with opened(by_transaction) as database:
        outcomes = [outcome for _ in range(3) for outcome in await at_once(database)]
    failures = [outcome for outcome in outcomes if not isinstance(outcome, int)]
    assert failures
    # Outages, and never an answer to what somebody else has asked: `work` would fail otherwise.
    assert {type(failure) for failure in failures} == {DatabaseUnavailable}
    assert all("DATABASE_POOLER=transaction" in str(failure) for failure in failures)


async def test_nothing_is_left_on_the_connections_of_others(
    by_transaction: EmbeddedPgBouncer,
) -> None:
    """Whoever gets a connection next finds it as if it were new."""

    async def look(database: Database) -> tuple[object, object]:
        # Without BEGIN, which says how long statements may take in that transaction.
        autocommit = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection:
            limit = await connection.scalar(text("SHOW statement_timeout"))
            prepared = text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
            return limit, await connection.scalar(prepared)

    async def look_at_all() -> set[tuple[object, object]]:
        async with opened(by_transaction, **POOLED_TRANSACTIONS) as database:
            return set(await asyncio.gather(*(look(database) for _ in range(4 * CLIENTS))))

    before = await look_at_all()
    async with opened(by_transaction, **POOLED_TRANSACTIONS) as database:
        await at_once(database)
    assert await look_at_all() == before
    # Without the setting, statements stay; but nobody else's take no longer than ours may.
    async with opened(by_transaction) as database:
        await at_once(database)
    assert {limit for limit, _ in await look_at_all()} == {"0"}
