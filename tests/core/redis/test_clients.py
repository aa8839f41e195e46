"""Clients fail in bounded time, once, and never do anything twice."""

import asyncio
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from devservers.server import free_port
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.redis.conftest import Connect
from tests.support.faultproxy import FaultProxy

IMPATIENT = {"timeout": 0.2, "connect_timeout": 0.2}


class Attempts:
    """Counts what a client does to get through: it retries nothing behind the caller's back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connections = 0
        self.commands = 0
        connect, send = asyncio.open_connection, AbstractConnection.send_packed_command

        async def counted_connect(*args: Any, **kwargs: Any) -> Any:
            self.connections += 1
            return await connect(*args, **kwargs)

        async def counted_send(connection: Any, command: Any, check_health: bool = True) -> None:
            self.commands += 1
            await send(connection, command, check_health)

        monkeypatch.setattr(asyncio, "open_connection", counted_connect)
        monkeypatch.setattr(AbstractConnection, "send_packed_command", counted_send)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Attempts:
    return Attempts(monkeypatch)


async def fails_in_time(client: Redis) -> None:
    """A command fails before a timer that was set with it, however slow the machine is."""
    command, timer = asyncio.ensure_future(client.get("k")), asyncio.create_task(asyncio.sleep(20))
    done, _ = await asyncio.wait({command, timer}, return_when=asyncio.FIRST_COMPLETED)
    timer.cancel()
    assert command in done
    assert isinstance(command.exception(), RedisError)


async def test_refused_it_fails_at_once(connect: Connect, attempts: Attempts) -> None:
    await fails_in_time(connect(f"redis://127.0.0.1:{free_port()}/0"))
    assert attempts.connections == 1


async def test_frozen_it_fails_within_its_timeout(connect: Connect, attempts: Attempts) -> None:
    with EmbeddedValkey() as server:
        client = connect(server.url, **IMPATIENT)
        await until(partial(succeeds, client))
        server.freeze()
        attempts.connections = attempts.commands = 0
        started = monotonic()
        await fails_in_time(client)
        assert monotonic() - started >= IMPATIENT["timeout"]
        assert (attempts.connections, attempts.commands) == (0, 1)
        server.thaw()
        await until(partial(succeeds, client))


async def test_a_black_hole_is_noticed_within_the_timeouts(
    connect: Connect, server: EmbeddedValkey, attempts: Attempts
) -> None:
    async with FaultProxy(server.host, server.port) as proxy:
        client = connect(proxy.url, **IMPATIENT)
        await until(partial(succeeds, client))
        await proxy.black_hole()
        attempts.connections = attempts.commands = 0
        await fails_in_time(client)
        assert (attempts.connections, attempts.commands) == (0, 1)
        await proxy.heal()
        await until(partial(succeeds, client))


async def succeeds(client: Redis) -> bool:
    with suppress(RedisError):
        return await client.get("k") is None
    return False


async def test_a_wrong_password_is_tried_once(connect: Connect) -> None:
    with EmbeddedValkey(requirepass="right") as server:
        wrong = connect(server.url.replace("right", "wrong"))
        with pytest.raises(AuthenticationError):
            await wrong.get("k")
        right = connect(server.url)
        stats = await right.info("errorstats")
        assert stats["errorstat_WRONGPASS"]["count"] == 1


@pytest.mark.slow
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
