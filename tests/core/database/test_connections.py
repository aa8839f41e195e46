"""Connections that are alive and no longer good, or dead without a word: none is used twice."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import event, text

from app.database import DatabaseUnavailable, connections, mysql, postgres
from app.database.engine import Database
from devservers.mysql import EmbeddedMySQL
from devservers.postgres import EmbeddedPostgres
from devservers.server import EmbeddedServer
from devservers.waiting import HANG
from tests.core.database.backends import installed
from tests.support.faultproxy import FaultProxy
from tests.support.turns import no_longer_than

SIZE = 4
TIMEOUT = 20.0
"""Seconds that a caller waits for a connection that is dead and not found to be so."""

KINDS: dict[str, tuple[Callable[[], EmbeddedServer], Any, str, str]] = {
    "postgres": (
        EmbeddedPostgres,
        postgres,
        "SELECT pg_backend_pid()",
        "SET default_transaction_read_only = on",
    ),
    "mysql": (
        EmbeddedMySQL,
        mysql,
        "SELECT connection_id()",
        "SET SESSION TRANSACTION READ ONLY",
    ),
}


class Kind:
    """A kind of database, and one that runs."""

    def __init__(self, name: str, server: EmbeddedServer) -> None:
        self.server = server
        _, self._module, self.who, self.read_only = KINDS[name]

    @asynccontextmanager
    async def open(self, port: int | None = None, **options: Any) -> AsyncIterator[Database]:
        url = self.server.url.replace(f":{self.server.port}/", f":{port or self.server.port}/")
        given = {"pool_size": SIZE, "pool_timeout": HANG, "timeout": TIMEOUT} | options
        async with self._module.create_database(url, **given) as database:
            yield database

    async def fill(self, database: Database, *statements: str) -> set[object]:
        """Have the pool make all its connections, and execute statements on each; who they are."""
        all_there = asyncio.Barrier(SIZE)

        async def use() -> object:
            async with database.engine.connect() as connection:
                await all_there.wait()
                for statement in statements:
                    await connection.execute(text(statement))
                found = await connection.scalar(text(self.who))
                await connection.commit()
                return found

        return set(await asyncio.gather(*(use() for _ in range(SIZE))))

    async def used(self, database: Database, *, times: int = SIZE) -> set[object]:
        """Who answers, one after the other."""
        found = set()
        for _ in range(times):
            async with database.reading() as session:
                found.add(await session.scalar(text(self.who)))
        return found


@pytest.fixture(scope="module", params=["postgres", pytest.param("mysql", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    with installed(KINDS[request.param][0]) as server:
        yield Kind(request.param, server)


@pytest.fixture
async def proxy(kind: Kind) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(kind.server.host, kind.server.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def a_busy_machine_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PING", 2.0)


async def write(database: Database) -> None:
    async with database.writing() as session:
        await session.execute(text("INSERT INTO written VALUES (1)"))


async def test_control_connections_are_used_again(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PING", HANG)
    async with kind.open() as database:
        made = await kind.fill(database)
        assert len(made) == SIZE
        assert await kind.used(database, times=3 * SIZE) == made


async def test_after_a_failover_one_write_fails_and_no_more(kind: Kind) -> None:
    async with kind.open() as database:
        async with database.writing() as session:
            await session.execute(text("CREATE TABLE IF NOT EXISTS written (n int)"))
        # All were made when this server only read, and say so for as long as they live.
        made = await kind.fill(database, kind.read_only)
        with pytest.raises(DatabaseUnavailable):
            await write(database)
        for _ in range(2 * SIZE):
            await write(database)
        assert not made & await kind.used(database)


async def test_of_idle_connections_that_were_forgotten_one_costs_a_ping(
    kind: Kind, proxy: FaultProxy
) -> None:
    async with kind.open(proxy.port) as database:
        made = await kind.fill(database)
        pings = count(database, "invalidate")
        proxy.forget()
        # Nobody waits for `TIMEOUT`, which would be an error.
        assert not made & await kind.used(database, times=2 * SIZE)
        # The elders of the first were closed without a question: nobody waited for them, either.
        assert len(pings) == 1


async def test_at_once_each_waits_for_one_ping(kind: Kind, proxy: FaultProxy) -> None:
    async with kind.open(proxy.port) as database:
        await kind.fill(database)
        proxy.forget()
        await asyncio.gather(*(database.ping() for _ in range(2 * SIZE)))


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True], ids=["an answer is lost", "its caller fails"])
async def test_closing_is_part_of_what_a_caller_waits(
    kind: Kind, proxy: FaultProxy, fails: bool
) -> None:
    patience = 4.0

    async def lose_it_half_way(database: Database) -> None:
        async with database.writing() as session:
            await session.execute(text(kind.who))
            proxy.forget()
            if fails:
                raise ZeroDivisionError
            await session.execute(text(kind.who))

    async with kind.open(proxy.port, timeout=patience) as database:
        await database.ping()
        async with no_longer_than(patience):
            with pytest.raises(ZeroDivisionError if fails else DatabaseUnavailable):
                await lose_it_half_way(database)
        await database.ping()


async def test_leaving_it_does_not_wait_for_the_dead(kind: Kind, proxy: FaultProxy) -> None:
    patience = 2.0
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(kind.open(proxy.port, timeout=patience))
        await kind.fill(database)
        proxy.forget()
        async with no_longer_than(patience):
            await stack.aclose()


async def test_the_system_looks_after_idle_connections(kind: Kind) -> None:
    async with kind.open() as database, database.engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        wire = driver._transport.get_extra_info("socket")
        assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_KEEPIDLE"):
            # Balancers forget a connection after four minutes (Azure) or 350 s (AWS) of silence.
            assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 240


async def test_no_connection_grows_old(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connections.RECYCLE < 240
    async with kind.open() as database:
        made = await kind.fill(database)
        monkeypatch.setattr(database.engine.pool, "_recycle", 0)
        await asyncio.sleep(0.01)  # the age of a connection is compared with >
        assert not made & await kind.used(database)


def count(database: Database, name: str) -> list[object]:
    """The events of this name that the pool has from now on."""
    seen: list[object] = []
    event.listen(database.engine.sync_engine, name, lambda *arguments: seen.append(arguments))
    return seen
