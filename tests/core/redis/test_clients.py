"""Clients fail in bounded time, once, and never do anything twice."""

from time import monotonic

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from devservers.server import free_port
from devservers.valkey import EmbeddedValkey
from tests.core.redis.conftest import Connect
from tests.support.faultproxy import FaultProxy

SLACK = 0.7


async def seconds_to_fail(client: Redis) -> float:
    started = monotonic()
    with pytest.raises(RedisError):
        await client.get("k")
    return monotonic() - started


async def test_refused_it_fails_at_once(connect: Connect) -> None:
    assert await seconds_to_fail(connect(f"redis://127.0.0.1:{free_port()}/0")) < SLACK


async def test_frozen_it_fails_within_its_timeout(connect: Connect) -> None:
    with EmbeddedValkey() as server:
        client = connect(server.url)
        await client.get("k")
        server.freeze()
        assert 0.2 <= await seconds_to_fail(client) < 0.2 + SLACK
        server.thaw()
        assert await client.get("k") is None


async def test_a_black_hole_is_noticed_within_the_timeouts(
    connect: Connect, server: EmbeddedValkey
) -> None:
    async with FaultProxy(server.host, server.port) as proxy:
        client = connect(proxy.url)
        await client.get("k")
        await proxy.black_hole()
        assert await seconds_to_fail(client) < 0.4 + SLACK
        await proxy.heal()
        assert await client.get("k") is None


async def test_a_wrong_password_is_tried_once(connect: Connect) -> None:
    with EmbeddedValkey(requirepass="right") as server:
        wrong = connect(server.url.replace("right", "wrong"))
        started = monotonic()
        with pytest.raises(AuthenticationError):
            await wrong.get("k")
        assert monotonic() - started < SLACK
        right = connect(server.url)
        stats = await right.info("errorstats")
        assert stats["errorstat_WRONGPASS"]["count"] == 1


async def test_a_command_whose_reply_is_lost_is_not_repeated(
    connect: Connect, server: EmbeddedValkey, redis: Redis
) -> None:
    async with FaultProxy(server.host, server.port) as proxy:
        client = connect(proxy.url)
        await client.get("k")
        await proxy.drop_replies()
        with pytest.raises(RedisError):
            await client.incr("counter")
        assert await redis.get("counter") == b"1"


async def test_a_reply_that_breaks_off_is_an_error_and_passes(
    connect: Connect, server: EmbeddedValkey, redis: Redis
) -> None:
    long = b"x" * 1000
    await redis.set("k", long)
    async with FaultProxy(server.host, server.port) as proxy:
        client = connect(proxy.url)
        assert await client.get("k") == long
        await proxy.cut_replies(100)
        with pytest.raises(RedisConnectionError):
            await client.get("k")
        await proxy.heal()
        assert await client.get("k") == long


async def test_it_names_itself_and_asks_for_nothing_odd(connect: Connect) -> None:
    """Open-source servers answer a request for maintenance notifications with an error."""
    with EmbeddedValkey() as server:
        client = connect(server.url)
        assert await client.client_getname() == "test"
        assert await client.info("errorstats") == {}
