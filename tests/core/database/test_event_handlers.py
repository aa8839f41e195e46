"""Event handlers that write to a database which is between two primaries: no event is lost."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from app.core.events import Events
from app.database import postgres
from app.database.engine import Database
from devservers.postgres import EmbeddedPostgres
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.events.conftest import Counted, connected, publishing

pytestmark = pytest.mark.slow

EVENTS = 5


@pytest.fixture
def servers() -> Iterator[tuple[EmbeddedPostgres, EmbeddedValkey]]:
    with EmbeddedPostgres() as postgres, EmbeddedValkey() as valkey:
        yield postgres, valkey


async def execute(database: Database, *statements: str) -> None:
    async with database.writing() as session:
        for statement in statements:
            await session.execute(text(statement))


async def test_while_it_only_reads_they_wait_and_lose_nothing(
    servers: tuple[EmbeddedPostgres, EmbeddedValkey],
) -> None:
    server, valkey = servers
    limits: dict[str, Any] = {"pool_size": 3, "pool_timeout": HANG, "timeout": HANG}
    async with (
        postgres.create_database(server.url, **limits) as database,
        postgres.create_database(server.url, **limits) as operator,
        connected(valkey.url) as client,
        publishing(valkey.url) as orders,
    ):
        await execute(operator, "CREATE TABLE handled (n int)")
        refused = 0
        events = Events(client, service="billing", transient=database.is_transient)

        async def handle(event: Counted) -> None:
            nonlocal refused
            try:
                await execute(database, f"INSERT INTO handled VALUES ({event.number})")
            except Exception:
                refused += 1
                raise

        events.on("orders", Counted)(handle)
        async with events:
            await execute(operator, "ALTER ROLE postgres SET default_transaction_read_only = on")
            await database.engine.dispose()
            for number in range(EVENTS):
                await orders.publish(Counted(number=number))
            # A handler that fails for good is tried three times.
            await until(lambda: refused > 3)
            await execute(
                operator,
                "SET TRANSACTION READ WRITE",
                "ALTER ROLE postgres RESET default_transaction_read_only",
            )

            async def handled() -> list[int]:
                async with operator.reading() as session:
                    return list(await session.scalars(text("SELECT n FROM handled")))

            async def are_all() -> bool:
                return len(await handled()) >= EVENTS

            await until(are_all, what="the events")
            assert await handled() == list(range(EVENTS))
