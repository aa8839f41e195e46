"""A replica answers the reads that may be behind, and no other, and the primary where it cannot.

PostgreSQL's stands still at a moment of the test's choosing. For MySQL two servers have the same
table, and each has a value of its own: a replica that hears of nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import asyncpg
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from app.core.cache import Cache, HttpCacheMiddleware
from app.core.read_scope import LaggingReads, reads_may_lag
from app.database import DatabaseUnavailable, mysql, postgres, replica
from app.database.engine import Database
from app.database.replica import Replica, ReplicatedDatabase
from devservers.mysql import EmbeddedMySQL
from devservers.postgres import EmbeddedPostgres
from devservers.server import EmbeddedServer
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.cache.harness import open_cache
from tests.core.cache.http.serving import asking
from tests.core.database.backends import installed
from tests.core.locks.nodes import open_locks
from tests.support.faultproxy import FaultProxy
from tests.support.standby import StandbyPostgres
from tests.support.turns import no_longer_than

pytestmark = pytest.mark.slow

OLD, NEW = 1, 2


@dataclass(frozen=True)
class Pair:
    """A primary with the value `NEW`, and a replica that still has `OLD`."""

    product: Any
    primary: EmbeddedServer
    behind: EmbeddedServer

    @asynccontextmanager
    async def opened(self, **options: Any) -> AsyncIterator[ReplicatedDatabase]:
        """The database as a service has it, once it uses its replica."""
        async with self.starting(**options) as database:
            await used(database)
            yield database

    @asynccontextmanager
    async def starting(
        self, *, read_url: str = "", longest: float = HANG
    ) -> AsyncIterator[ReplicatedDatabase]:
        options = {"pool_size": 4, "pool_timeout": HANG, "timeout": longest}
        create = self.product.create_database
        async with create(read_url or self.behind.url, is_replica=True, **options) as behind:
            given = Replica(behind, limit=2)
            async with create(self.primary.url, replica=given, **options) as database:
                yield database


async def used(database: ReplicatedDatabase) -> None:
    await until(lambda: not database._is_away, what="a replica that is used")


async def execute(database: Database, *statements: str) -> None:
    async with database.writing() as session:
        for statement in statements:
            await session.execute(text(statement))


async def value(database: Database, **how: bool) -> int:
    async with database.reading(**how) as session:
        return int(await session.scalar(text("SELECT v FROM t")))


def ask(server: EmbeddedPostgres, statement: str) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(server.url.replace("+asyncpg", ""), timeout=HANG)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(ask())


@pytest.fixture(scope="module", params=["postgres", "mysql"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    async def fill(server: EmbeddedServer, product: Any, number: int) -> None:
        async with product.create_database(
            server.url, pool_size=1, pool_timeout=HANG, timeout=HANG
        ) as database:
            await execute(database, "CREATE TABLE t (v int)", f"INSERT INTO t VALUES ({number})")

    if request.param == "mysql":
        with installed(EmbeddedMySQL) as first, installed(EmbeddedMySQL) as second:
            asyncio.run(fill(first, mysql, NEW))
            asyncio.run(fill(second, mysql, OLD))
            yield Pair(mysql, first, second)
        return
    with EmbeddedPostgres() as primary:
        asyncio.run(fill(primary, postgres, OLD))
        with StandbyPostgres(primary) as standby:
            ask(standby, "SELECT pg_wal_replay_pause()")
            paused = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
            while not ask(standby, paused):
                pass
            ask(primary, f"UPDATE t SET v = {NEW}")
            yield Pair(postgres, primary, standby)


@pytest.fixture
async def database(pair: Pair) -> AsyncIterator[ReplicatedDatabase]:
    async with pair.opened() as database:
        yield database


@pytest.fixture(scope="module")
def redis() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def cache(redis: EmbeddedValkey) -> AsyncIterator[Cache]:
    async with open_cache(redis.url) as cache:
        yield cache


async def test_only_where_reads_may_lag_they_do(database: ReplicatedDatabase) -> None:
    assert await value(database) == NEW
    with reads_may_lag():
        assert await value(database) == OLD  # the control: it is behind
        assert await value(database, fresh=True) == NEW
        await database.ping()
    assert await value(database) == NEW


async def test_whoever_has_written_reads_what_was_written(database: ReplicatedDatabase) -> None:
    with reads_may_lag():
        assert await value(database) == OLD
        async with database.writing():
            # For all of it: neither of both is to be seen without the other one.
            assert await value(database) == NEW
        assert await value(database) == NEW
        assert await asyncio.create_task(value(database)) == NEW
        with reads_may_lag():
            assert await value(database) == OLD
    with reads_may_lag():
        assert await value(database) == OLD
        await asyncio.create_task(execute(database, f"UPDATE t SET v = {NEW}"))
        assert await value(database) == NEW


async def test_what_is_read_under_a_lock_is_not_behind(
    database: ReplicatedDatabase, redis: EmbeddedValkey
) -> None:
    async with open_locks("lua", [redis.url]) as locks:
        with reads_may_lag():
            assert await value(database) == OLD
            async with locks.hold("t"):
                assert await value(database) == NEW
        with reads_may_lag():
            assert await value(database) == OLD
            lease = await locks.try_acquire("t")
            assert lease is not None
            assert await value(database) == NEW


# Ways of filling an entry, each after an invalidation that came after the write.
Fill = Callable[[Cache, Callable[[], Awaitable[int]]], Awaitable[object]]


async def through_a_policy(cache: Cache, load: Callable[[], Awaitable[int]]) -> object:
    policy = cache.policy("policy", int, ttl=60)
    await policy.invalidate("t")
    await policy.get_or_load("t", load)
    return await policy.get_or_load("t", load)


async def of_many(cache: Cache, load: Callable[[], Awaitable[int]]) -> object:
    async def load_all(keys: Any) -> dict[str, int]:
        return {key: await load() for key in keys}

    policy = cache.policy("many", int, ttl=60)
    return (await policy.get_or_load_many(["a", "b"], load_all))["b"]


async def refreshed(cache: Cache, load: Callable[[], Awaitable[int]]) -> object:
    policy = cache.policy("refreshed", int, ttl=60)
    return await policy.refresh("t", load)


async def in_background(cache: Cache, load: Callable[[], Awaitable[int]]) -> object:
    policy = cache.policy("background", int, ttl=0.001, stale_while_revalidate=60)
    await policy.get_or_load("t", load)
    found = [await policy.get_or_load("t", load)]

    async def is_new() -> bool:
        found.append(await policy.get_or_load("t", load))
        return len(found) > 3

    await until(is_new)
    return found[-1]


FILLS: list[Fill] = [through_a_policy, of_many, refreshed, in_background]


@pytest.mark.parametrize("fill", FILLS)
async def test_what_the_cache_keeps_is_not_behind(
    database: ReplicatedDatabase, cache: Cache, fill: Fill
) -> None:
    with reads_may_lag():
        assert await value(database) == OLD
        assert await fill(cache, lambda: value(database)) == NEW
        assert await value(database) == OLD  # nor is a reader burdened with it afterwards


async def test_control_a_loader_that_reads_the_replica_keeps_the_old_value(
    database: ReplicatedDatabase, cache: Cache
) -> None:
    policy = cache.policy("control", int, ttl=60)

    async def load() -> int:
        with reads_may_lag():
            return await value(database)

    await policy.invalidate("t")
    assert await policy.get_or_load("t", load) == OLD
    assert await policy.get_or_load("t", lambda: value(database)) == OLD  # for all of its ttl


def application(cache: Cache, database: Database) -> FastAPI:
    router = APIRouter()

    async def who(user: Annotated[str, Header()]) -> str:
        return user

    @router.get("/public")
    @cache.policy("public", int, ttl=60).http(public=True)
    async def public() -> int:
        return await value(database)

    @router.get("/private")
    @cache.policy("private", int, ttl=60).http(vary_by=who)
    async def private(user: Annotated[str, Depends(who)]) -> int:
        return await value(database)

    @router.api_route("/uncached", methods=["GET", "POST"])
    async def uncached() -> int:
        return await value(database)

    @router.get("/written")
    async def written() -> int:
        await execute(database, f"UPDATE t SET v = {NEW}")
        return await value(database)

    app = FastAPI()
    app.include_router(router)
    app.add_middleware(LaggingReads)
    app.add_middleware(HttpCacheMiddleware)
    return app


async def test_requests(database: ReplicatedDatabase, cache: Cache) -> None:
    async with asking(application(cache, database)) as client:
        for method, path, expected in [
            ("GET", "/uncached", OLD),
            ("POST", "/uncached", NEW),
            ("GET", "/written", NEW),
            ("GET", "/public", NEW),
            ("GET", "/private", NEW),
            ("GET", "/uncached", OLD),
        ]:
            answer = await client.request(method, path, headers={"user": "u"})
            assert (path, answer.status_code, answer.json()) == (path, 200, expected)


async def test_it_takes_no_writes_and_says_so(pair: Pair) -> None:
    """Also where the URL leads to the primary: that is a mistake, and no outage."""
    for url in (pair.behind.url, pair.primary.url):
        async with pair.opened(read_url=url) as database:
            with reads_may_lag(), pytest.raises(DBAPIError, match=r"(?i)read.only"):
                async with database.reading() as session:
                    await session.execute(text("DELETE FROM t"))
            assert await value(database) == NEW
            with reads_may_lag():
                await value(database)
            assert not database._is_away


async def test_while_it_is_away_the_primary_is_asked(pair: Pair) -> None:
    before = replica.fallbacks._value.get()
    async with FaultProxy(pair.behind.host, pair.behind.port) as proxy:
        url = make_url(pair.behind.url).set(port=proxy.port)
        with capture_logs() as logs:
            async with pair.opened(
                read_url=url.render_as_string(hide_password=False), longest=9
            ) as database:
                with reads_may_lag():
                    assert await value(database) == OLD
                    await proxy.black_hole()
                    async with no_longer_than(9):
                        assert (
                            await asyncio.gather(*(value(database) for _ in range(8))) == [NEW] * 8
                        )
                    assert replica.away._value.get() == 1
                    with pytest.raises(DatabaseUnavailable):
                        await database.check_replica()
                    await proxy.heal()
                    await used(database)
                    assert await value(database) == OLD
    assert replica.fallbacks._value.get() - before >= 8
    told = [line["event"] for line in logs]
    assert told == ["database.replica_used", "database.replica_away", "database.replica_used"]


async def test_writes_keep_a_part_of_the_pool_of_the_primary(pair: Pair) -> None:
    nowhere = make_url(pair.behind.url).set(port=1).render_as_string(hide_password=False)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(pair.starting(read_url=nowhere))
        over = asyncio.Event()
        inside = 0

        async def read() -> None:
            nonlocal inside
            with reads_may_lag():
                async with database.reading():
                    inside += 1
                    await over.wait()

        readers = [asyncio.create_task(read()) for _ in range(8)]
        await until(lambda: inside == 2)
        await asyncio.gather(*(execute(database, f"UPDATE t SET v = {NEW}") for _ in range(4)))
        assert inside == 2
        over.set()
        await asyncio.gather(*readers)


@pytest.mark.parametrize("pair", ["postgres"], indirect=True)
async def test_another_database_is_not_used(pair: Pair) -> None:
    with EmbeddedPostgres() as other:
        async with pair.starting(read_url=other.url) as database:
            with pytest.raises(DatabaseUnavailable, match="another database"):
                await database.check_replica()
            with reads_may_lag():
                assert await value(database) == NEW


@pytest.mark.parametrize("pair", ["mysql"], indirect=True)
async def test_one_with_other_tables_is_not_used(pair: Pair) -> None:
    # One that is the server's own has what the service's has not.
    url = make_url(pair.behind.url).set(database="mysql").render_as_string(hide_password=False)
    async with pair.starting(read_url=url) as database:
        with pytest.raises(DatabaseUnavailable, match="other tables"):
            await database.check_replica()
        with reads_may_lag():
            assert await value(database) == NEW


@pytest.mark.parametrize("pair", ["postgres"], indirect=True)
async def test_a_role_without_rights_may_ask_for_what_a_replica_shows(pair: Pair) -> None:
    async with pair.opened() as database:
        await execute(database, "DROP ROLE IF EXISTS plain", "CREATE ROLE plain")
        async with database.reading(fresh=True) as session:
            await session.execute(text("SET LOCAL ROLE plain"))
            assert await session.scalar(text(str(database._identity)))
