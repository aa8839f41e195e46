"""The fair pool: bounded, in order, and nothing lost when callers are cancelled."""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from app.core.redis import BatchReader, ClientOptions, PoolTimeout
from app.core.redis.pool import FairSentinelPool, FairSlots
from devservers.server import free_port
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE, until
from tests.core.redis.conftest import PATIENT, Connect
from tests.support.clients import standalone_client
from tests.support.faultproxy import FaultProxy


async def free_slots(client: Redis, size: int) -> None:
    """Prove that `size` connections can be had at once, and no more."""
    pool = client.connection_pool
    taken = [await pool.get_connection() for _ in range(size)]
    with pytest.raises(PoolTimeout):
        await pool.get_connection()
    for connection in taken:
        await pool.release(connection)


async def test_a_full_pool_says_so_in_time(connect: Connect) -> None:
    client = connect(pool_size=2, pool_timeout=0.1)
    pool = client.connection_pool
    held = [await pool.get_connection() for _ in range(2)]
    with pytest.raises(PoolTimeout, match="all 2 connections of the pool 'test' were busy"):
        await client.get("k")
    for connection in held:
        await pool.release(connection)
    await client.get("k")


async def test_waiters_are_served_in_order(connect: Connect) -> None:
    client = connect(pool_size=1)
    served: list[int] = []

    async def one(number: int) -> None:
        connection = await client.connection_pool.get_connection()
        served.append(number)
        await asyncio.sleep(0.001)
        await client.connection_pool.release(connection)

    await asyncio.gather(*(one(number) for number in range(50)))
    assert served == list(range(50))


REGULARS, NEWCOMERS = 16, 50


async def longest_wait_of_newcomers(client: Redis) -> float:
    """How many are served while a newcomer waits; regulars take a connection again and again."""
    pool, over = client.connection_pool, asyncio.Event()
    served = 0

    async def regular() -> None:
        nonlocal served
        while not over.is_set():
            connection = await pool.get_connection()
            served += 1
            await asyncio.sleep(0.002)
            await pool.release(connection)

    async def newcomer() -> float:
        nonlocal served
        before = served
        try:
            connection = await pool.get_connection()
        except RedisConnectionError:
            return math.inf
        waited = served - before
        served += 1
        await pool.release(connection)
        return waited

    regulars = [asyncio.create_task(regular()) for _ in range(REGULARS)]
    await until(lambda: served > 5 * REGULARS)
    waits = await asyncio.gather(*(newcomer() for _ in range(NEWCOMERS)))
    over.set()
    await asyncio.gather(*regulars, return_exceptions=True)
    return max(waits)


async def test_newcomers_do_not_starve(connect: Connect) -> None:
    # Those who stood in front of the last one, and those who were being served.
    most = REGULARS + NEWCOMERS
    assert await longest_wait_of_newcomers(connect(pool_size=4)) <= most


@pytest.mark.slow
async def test_control_with_the_pool_of_redis_py_they_do(server: EmbeddedValkey) -> None:
    pool = BlockingConnectionPool(
        host=server.host, port=server.port, max_connections=4, timeout=1.5
    )
    client = Redis.from_pool(pool)
    assert await longest_wait_of_newcomers(client) > REGULARS + NEWCOMERS
    await client.aclose()


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_callers_lose_no_connection(connect: Connect, seed: int) -> None:
    client = connect(pool_size=4, pool_timeout=0.2)
    chance = random.Random(seed)

    async def one() -> None:
        try:
            async with asyncio.timeout(chance.uniform(0, 0.004)):
                await client.get("k")
        except (TimeoutError, RedisError):
            pass

    for _ in range(20):
        await asyncio.gather(*(one() for _ in range(50)))
    await free_slots(client, 4)


async def test_a_refused_connection_gives_its_slot_back(connect: Connect) -> None:
    client = connect(f"redis://127.0.0.1:{free_port()}/0", pool_size=2, pool_timeout=0.1)
    for _ in range(10):
        with pytest.raises(RedisConnectionError) as error:
            await client.get("k")
        assert not isinstance(error.value, PoolTimeout)


async def test_cancelled_before_it_got_one_the_slot_is_free_again(connect: Connect) -> None:
    """The base class keeps a lock of its own, and waiting for it can be cancelled too."""
    client = connect(pool_size=2, pool_timeout=0.1)
    pool = client.connection_pool
    async with pool._lock:
        waiting = [asyncio.create_task(pool.get_connection()) for _ in range(2)]
        await asyncio.sleep(0.02)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    await free_slots(client, 2)


async def test_a_connection_that_the_server_closed_is_replaced_unnoticed(
    connect: Connect, redis: Redis
) -> None:
    client = connect(pool_size=1)
    await client.get("k")
    connection: Any = client.connection_pool._available_connections[0]
    await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until(lambda: connection._reader.at_eof())
    await client.get("k")


@pytest.mark.parametrize(
    "run", [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]
)
@pytest.mark.parametrize("batched", [False, True], ids=["alone", "in a batch"])
def test_so_is_one_that_was_reset(
    server: EmbeddedValkey, run: Callable[[Coroutine[Any, Any, None]], None], batched: bool
) -> None:
    async def check() -> None:
        async with FaultProxy(server.host, server.port) as proxy:
            options = ClientOptions(name="test", pool_size=1, **PATIENT | {"pool_timeout": 0.2})
            client = standalone_client(proxy.url, options)
            reader = BatchReader(client, timeout=PATIENCE)
            for _ in range(3):
                assert await (reader.read([b"no"]) if batched else client.mget("no")) == [None]
                connection: Any = client.connection_pool._available_connections[0]
                await proxy.refuse()
                await proxy.heal()
                await until(connection._writer.is_closing)
            await free_slots(client, 1)
            await client.aclose()

    run(check())


class Sentinels:
    """Know where the primary is."""

    def __init__(self, server: EmbeddedValkey) -> None:
        self.primary = server

    async def discover_master(self, service: str) -> tuple[str, int]:
        return self.primary.host, self.primary.port


async def test_after_a_failover_nobody_gets_a_connection_to_the_old_primary(
    server: EmbeddedValkey,
) -> None:
    with EmbeddedValkey() as promoted:
        sentinels = Sentinels(server)
        pool = FairSentinelPool(
            slots=FairSlots(name="test", size=2, timeout=1),
            connection_class=SentinelManagedConnection,
            service_name="service",
            sentinel_manager=sentinels,
        )
        in_use: Any = await pool.get_connection()
        assert in_use.port == server.port
        sentinels.primary = promoted
        other: Any = await pool.get_connection()  # the pool hears of it
        assert other.port == promoted.port
        await pool.release(other)
        await pool.release(in_use)
        connections: list[Any] = [await pool.get_connection() for _ in range(2)]
        assert [connection.port for connection in connections] == [promoted.port] * 2
        await pool.disconnect()
