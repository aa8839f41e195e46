"""Commands of many callers in one round trip: each gets its own replies and its own errors."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.redis import (
    ClientOptions,
    Command,
    CommandBatcher,
    PoolTimeout,
    RedisClient,
    Script,
    create_client,
)
from app.core.redis import commands as commands_module
from devservers.valkey import EmbeddedValkey
from tests.support.asking import ask
from tests.support.cluster import EmbeddedCluster
from tests.support.wire import counted_writes

CALLERS = 1_000


@asynccontextmanager
async def opened(url: str, **options: float) -> AsyncIterator[tuple[RedisClient, CommandBatcher]]:
    settings = {"pool_size": 1, "timeout": 30, "connect_timeout": 30, **options}
    client = create_client(url, ClientOptions(name="test", **settings))  # type: ignore[arg-type]  # ints
    try:
        yield client, CommandBatcher(client)
    finally:
        await client.aclose()


@pytest.fixture
async def batcher(server: EmbeddedValkey) -> AsyncIterator[CommandBatcher]:
    async with opened(server.url) as (_, batcher):
        await batcher.send([("FLUSHALL",)])
        yield batcher


async def test_a_thousand_callers_share_a_few_round_trips(batcher: CommandBatcher) -> None:
    with counted_writes() as wire:
        replies = await asyncio.gather(
            *(batcher.send([("SET", f"k{n}", n), ("GET", f"k{n}")]) for n in range(CALLERS))
        )
    assert replies == [[b"OK", b"%d" % n] for n in range(CALLERS)]
    assert len(wire) <= 1 + 2 * CALLERS / 500 + 1


async def test_an_error_reply_belongs_to_the_caller_of_its_command(
    batcher: CommandBatcher,
) -> None:
    await batcher.send([("SET", "text", "letters")])
    calls: list[list[Command]] = [[("GET", "text")], [("LPUSH", "text", 1)], [("GET", "text")]]
    one, two, three = await asyncio.gather(*map(batcher.send, calls))
    assert (one, three) == ([b"letters"], [b"letters"])
    assert isinstance(two[0], RedisError)


async def test_scripts_that_the_server_does_not_know_are_sent_in_full(
    batcher: CommandBatcher,
) -> None:
    script = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    await batcher.send([("SCRIPT", "FLUSH")])
    replies = await asyncio.gather(
        *(batcher.send([("GET", "none"), script.call([f"n{n}"], [n])]) for n in range(20))
    )
    assert replies == [[None, n] for n in range(20)]
    with counted_writes() as wire:
        assert await batcher.send([script.call(["n1"], [1])]) == [2]
    assert len(wire) == 1


async def test_a_large_value_does_not_ride_with_all_others(batcher: CommandBatcher) -> None:
    large = b"x" * (2 * 1024 * 1024)
    with counted_writes() as wire:
        await asyncio.gather(*(batcher.send([("SET", f"l{n}", large)]) for n in range(3)))
    assert len(wire) == 3


async def test_a_full_pool_is_waited_for_longer_than_the_pool_waits(
    server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(server.url, pool_timeout=0.01) as (client, batcher):
        assert isinstance(client, Redis)
        held = await client.connection_pool.get_connection()
        waiting = [asyncio.create_task(batcher.send([("PING",)])) for _ in range(3)]
        with pytest.raises(PoolTimeout):  # a command that is not so patient
            await client.ping()
        assert not any(task.done() for task in waiting)
        await client.connection_pool.release(held)
        assert await asyncio.gather(*waiting) == [[b"PONG"]] * 3

        monkeypatch.setattr(commands_module, "_POOL_TIMEOUT", 0)
        held = await client.connection_pool.get_connection()
        assert isinstance((await batcher.send([("PING",)]))[0], PoolTimeout)
        await client.connection_pool.release(held)


async def test_a_caller_who_is_cancelled_harms_no_other(batcher: CommandBatcher) -> None:
    await batcher.send([("SET", "n", 0)])
    callers = [asyncio.create_task(batcher.send([("INCR", "n")])) for _ in range(20)]
    await asyncio.sleep(0)
    for caller in callers[::2]:
        caller.cancel()
    told = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(reply, list) for reply in told[1::2])
    # The first one sends: up to Python 3.11 `wait_for` may have its cancellation swallowed.
    assert [type(reply) for reply in told[2::2]] == [asyncio.CancelledError] * 9
    assert await batcher.send([("PING",)]) == [b"PONG"]


async def test_nobody_queues_behind_a_server_that_is_silent() -> None:
    with EmbeddedValkey() as server:
        async with opened(server.url, timeout=0.3) as (_, batcher):
            await batcher.send([("PING",)])
            server.freeze()
            told = await asyncio.gather(
                *(batcher.send([("PING",)]) for _ in range(50)), return_exceptions=True
            )
            server.thaw()
            assert all(isinstance(error, RedisTimeoutError) for error in told)
            assert len({id(error) for error in told}) == 50
            assert await batcher.send([("PING",)]) == [b"PONG"]


@pytest.mark.slow
async def test_a_node_that_is_silent_fails_its_own_commands_only() -> None:
    names = [f"key:{number}" for number in range(60)]
    with EmbeddedCluster() as cluster:
        for node in cluster.nodes:  # or those that are well take the whole cluster for down
            ask(node, "CONFIG", "SET", "cluster-node-timeout", 600_000)
        async with opened(cluster.url, timeout=3, pool_size=32) as (_, batcher):
            assert await batcher.send([("SET", name, 1) for name in names]) == [True] * len(names)
            cluster.nodes[0].freeze()
            told = await asyncio.gather(
                *(batcher.send([("EXISTS", name)]) for name in names), return_exceptions=True
            )
            cluster.nodes[0].thaw()
    replies = [reply[0] if isinstance(reply, list) else reply for reply in told]
    answered = [reply for reply in replies if reply == 1]
    silent = [reply for reply in replies if isinstance(reply, RedisError)]
    assert len(answered) + len(silent) == len(names)
    assert len(names) / 2 < len(answered) < len(names)
