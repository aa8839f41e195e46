"""Each fault of the proxy, as a client sees it and as the server does."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.support.faultproxy import FaultProxy

# Seconds after which somebody takes silence for it.
_SILENCE = 0.15


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def proxy(valkey: EmbeddedValkey) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(valkey.host, valkey.port) as proxy:
        yield proxy


@pytest.fixture
async def direct(valkey: EmbeddedValkey) -> AsyncIterator[Redis]:
    """What the server itself says."""
    async with Redis.from_url(valkey.url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[Redis]:
    retry = Retry(NoBackoff(), 0)
    async with Redis.from_url(proxy.url, socket_timeout=HANG, retry=retry) as client:
        await client.ping()
        yield client


async def is_silent(answer: Awaitable[object]) -> bool:
    """Whether nothing comes, for a while; the connection is given up then."""
    try:
        async with asyncio.timeout(_SILENCE):
            await answer
    except TimeoutError:
        return True
    return False


async def test_passes_everything_on(client: Redis, direct: Redis) -> None:
    value = bytes(range(256)) * 4096
    await client.set("key", value)
    assert await direct.get("key") == value
    assert await client.get("key") == value


async def test_delay(proxy: FaultProxy, client: Redis) -> None:
    await proxy.delay(0.1)
    started = time.monotonic()
    await client.ping()
    assert time.monotonic() - started > 0.09
    await proxy.delay(5)
    assert await is_silent(client.ping())
    await proxy.heal()
    assert await client.ping()


async def test_black_hole_holds_back_what_is_sent(
    proxy: FaultProxy, client: Redis, direct: Redis
) -> None:
    await proxy.black_hole()
    waiting = asyncio.ensure_future(client.incr("counter"))
    await asyncio.sleep(0.05)
    assert await direct.get("counter") is None
    await proxy.heal()
    assert await waiting == 1


async def test_black_hole_looks_like_silence(
    proxy: FaultProxy, client: Redis, direct: Redis
) -> None:
    await proxy.black_hole()
    accepted = proxy.accepted
    for _ in range(2):
        assert await is_silent(client.incr("counter"))
    assert proxy.accepted > accepted  # new connections are made, and as silent


async def test_lost_reply_leaves_its_effect(
    proxy: FaultProxy, client: Redis, direct: Redis
) -> None:
    await proxy.drop_replies()
    assert await is_silent(client.incr("counter"))

    async def counted() -> bool:
        return await direct.get("counter") == b"1"

    await until(counted)
    await proxy.heal()
    assert await client.incr("counter") == 2


async def test_connection_that_lost_a_reply_ends_with_the_fault(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    await proxy.drop_replies()
    writer.write(b"PING\r\n")
    assert await is_silent(reader.read(100))
    await proxy.heal()
    assert await _rest(reader) == b""
    writer.close()


async def test_reply_is_cut(proxy: FaultProxy, client: Redis, direct: Redis) -> None:
    await direct.set("key", "0123456789")
    await proxy.cut_replies(after=8)
    with pytest.raises(RedisConnectionError):
        await client.get("key")
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"GET key\r\n")
    assert await asyncio.wait_for(reader.read(), HANG) == b"$10\r\n012"
    writer.close()
    await proxy.heal()
    assert await client.get("key") == b"0123456789"


async def test_refuses_and_comes_back_on_its_port(proxy: FaultProxy, client: Redis) -> None:
    port = proxy.port
    await proxy.refuse()
    with pytest.raises(RedisConnectionError):
        await client.ping()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(proxy.host, proxy.port)
    await proxy.heal()
    assert proxy.port == port
    assert await client.ping()


async def test_dead_server_is_a_closed_connection() -> None:
    with EmbeddedValkey() as valkey:
        async with FaultProxy(valkey.host, valkey.port) as proxy:
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
            writer.write(b"PING\r\n")
            assert await reader.readline() == b"+PONG\r\n"
            valkey.kill()
            assert await asyncio.wait_for(reader.read(), HANG) == b""
            writer.close()


async def test_leaving_ends_all_connections_whatever_the_fault(valkey: EmbeddedValkey) -> None:
    async with FaultProxy(valkey.host, valkey.port) as proxy:
        _, writer = await asyncio.open_connection(proxy.host, proxy.port)
        await proxy.black_hole()
        writer.write(b"PING\r\n")
        await asyncio.sleep(0.02)
    assert not proxy._tasks
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(proxy.host, proxy.port)
    writer.close()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """What still comes before the connection ends, be it in an orderly way or not."""
    try:
        return await asyncio.wait_for(reader.read(), HANG)
    except ConnectionError:
        return b""
