"""Connections that are read past redis-py's streams: the same answers, whatever happens to them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoPermissionError, RedisError, ResponseError

from app.core.fastpath import redis as fast_redis
from app.core.fastpath.redis import RawConnection
from app.core.redis import (
    BatchReader,
    ClientOptions,
    PoolTimeout,
)
from app.core.redis.pool import FairPool
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, PATIENCE, until
from tests.core.redis.conftest import Connect
from tests.core.redis.test_pool import free_slots
from tests.support.clients import standalone_client
from tests.support.tls import tls_front
from tests.support.wire import counted_writes

Run = Callable[[Coroutine[Any, Any, None]], None]

LOOPS = [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]
VALUE = b"x\r\n*1\r\n"
REPLY = b"*3\r\n$%d\r\n%b\r\n$-1\r\n$0\r\n\r\n" % (len(VALUE), VALUE)


def mget(*keys: bytes) -> bytes:
    parts = (b"$%d\r\n%b\r\n" % (len(part), part) for part in (b"MGET", *keys))
    return b"*%d\r\n%b" % (len(keys) + 1, b"".join(parts))


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What any stream of this process takes from its transport."""
    seen: list[bytes] = []
    feed = asyncio.StreamReader.feed_data

    def feed_data(self: asyncio.StreamReader, data: bytes) -> None:
        seen.append(data)
        feed(self, data)

    monkeypatch.setattr(asyncio.StreamReader, "feed_data", feed_data)
    return seen


@pytest.mark.parametrize("run", LOOPS)
def test_values_pass_no_stream(server: EmbeddedValkey, streamed: list[bytes], run: Run) -> None:
    async def check() -> None:
        client = standalone_client(
            server.url, ClientOptions(name="test", pool_size=2, timeout=PATIENCE)
        )
        await client.mset({f"k{number}": "secret" * 1000 for number in range(50)})
        reader = BatchReader(client, timeout=PATIENCE)
        streamed.clear()
        values = await asyncio.gather(*(reader.read([b"k%d" % n]) for n in range(50)))
        assert values == [[b"secret" * 1000]] * 50
        assert streamed == []
        assert await client.get("k1") == b"secret" * 1000  # by the same connection
        assert b"secret" in b"".join(streamed)
        await free_slots(client, 2)
        await client.aclose()

    run(check())


@pytest.mark.parametrize("run", LOOPS)
def test_nor_do_they_with_tls(
    server: EmbeddedValkey, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_redis, "_MAX_SECONDS", 60)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def check() -> None:
        certificate = authority.issue_cert("127.0.0.1")
        async with tls_front(server.host, server.port, certificate) as port:
            url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path / 'ca.pem'}"
            options = ClientOptions(name="test", timeout=PATIENCE, connect_timeout=PATIENCE)
            client = standalone_client(url, options)
            await client.set("key", "value")
            connection = await RawConnection.open(client.connection_pool)
            for _ in range(3):
                assert await connection.ask(mget(b"key")) == [[b"value"]]
                assert connection.may_stay  # it was not left to the stream
            await connection.close()
            assert await client.get("key") == b"value"
            await client.aclose()

    run(check())


async def test_without_the_writer_that_we_know_redis_py_does_it(
    redis: Redis, streamed: list[bytes]
) -> None:
    class Writer:
        """One of a redis-py to come."""

        def __init__(self, writer: asyncio.StreamWriter) -> None:
            self._writer = writer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._writer, name)

    await redis.set("key", "value")
    pool = redis.connection_pool
    connection: Any = await pool.get_connection()
    connection._writer = Writer(connection._writer)
    await pool.release(connection)
    streamed.clear()
    taken = await RawConnection.open(pool)
    assert await taken.ask(mget(b"key")) == [[b"value"]]
    assert not taken.may_stay
    await taken.close()
    assert streamed


async def test_an_error_is_that_of_redis_py_and_ends_nothing(
    redis: Redis, server: EmbeddedValkey, connect: Connect
) -> None:
    await redis.acl_setuser(
        "limited", enabled=True, nopass=True, keys="*", commands=["+@all", "-mget"]
    )
    client = connect(f"redis://limited:any@{server.host}:{server.port}")
    reader = BatchReader(client, timeout=PATIENCE)
    number = await client.client_id()
    answers = await asyncio.gather(*(reader.read([b"k"]) for _ in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [NoPermissionError] * 5
    await redis.acl_setuser("limited", commands=["+mget"])
    assert await reader.read([b"k"]) == [None]
    assert await client.client_id() == number


async def test_a_reply_cut_short_is_not_that_of_the_next_command(redis: Redis) -> None:
    assert await after_one_that_was_cancelled(redis) == [[b"its own"]]


async def test_control_on_the_same_connection_it_would_be(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def disconnect(self: AbstractConnection, nowait: bool = False) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "disconnect", disconnect)
        assert await after_one_that_was_cancelled(redis) == [[b"of another"]]


async def after_one_that_was_cancelled(redis: Redis) -> list[Any]:
    await redis.mset({"first": "of another", "second": "its own"})
    connection = await RawConnection.open(redis.connection_pool)
    asked = asyncio.create_task(connection.ask(mget(b"first")))
    await asyncio.sleep(0)  # it is sent
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    replies = await connection.ask(mget(b"second"))
    await connection.close()
    await redis.connection_pool.disconnect()
    return replies


class Script:
    """A server that answers MGET with the pieces it was given, and hangs up at None."""

    def __init__(self) -> None:
        self.pieces: list[bytes | None] = []
        self.connections = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ConnectionPool]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server:
            pool = ConnectionPool(host=host, port=port, protocol=2, driver_info=None)
            yield pool
            await pool.disconnect()

    async def _serve(self, commands: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        while await commands.read(4096):
            for piece in self.pieces:
                if piece is None:
                    client.close()
                    return
                client.write(piece)
                await asyncio.sleep(0.002)
        client.close()


async def test_a_reply_may_come_in_any_two_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_redis, "_MAX_SECONDS", 60)
    script = Script()
    async with script.running() as pool:
        connection = await RawConnection.open(pool)
        for cut in range(1, len(REPLY)):
            script.pieces = [REPLY[:cut], REPLY[cut:]]
            assert await connection.ask(mget(b"k")) == [[VALUE, None, b""]]
        assert connection.may_stay
        await connection.close()
    assert script.connections == 1


async def test_a_reply_may_come_byte_by_byte() -> None:
    script = Script()
    async with script.running() as pool:
        script.pieces = [REPLY[at : at + 1] for at in range(len(REPLY))]
        connection = await RawConnection.open(pool)
        assert await connection.ask(mget(b"k")) == [[VALUE, None, b""]]
        await connection.close()


async def test_an_error_may_follow_a_reply() -> None:
    script = Script()
    async with script.running() as pool:
        connection = await RawConnection.open(pool)
        script.pieces = [REPLY]
        assert await connection.ask(mget(b"k")) == [[VALUE, None, b""]]
        script.pieces = [b"-ERR no\r\n"]
        assert [type(one) for one in await connection.ask(mget(b"k"))] == [ResponseError]
        await connection.close()


async def test_what_nobody_asked_for_is_nobodys_reply() -> None:
    script = Script()
    async with script.running() as pool:
        reader = BatchReader(Redis.from_pool(pool), timeout=PATIENCE)
        script.pieces = [REPLY, b"*1\r\n$5\r\nwrong\r\n"]
        connection = await RawConnection.open(pool)
        assert await connection.ask(mget(b"k")) == [[VALUE, None, b""]]
        await asyncio.sleep(0.02)
        assert not connection.may_stay
        await connection.close()
        script.pieces = [REPLY]
        assert await reader.read([b"k", b"l", b"m"]) == [VALUE, None, b""]
    assert script.connections == 2


async def test_a_connection_that_is_being_closed_may_not_stay(redis: Redis) -> None:
    pool = redis.connection_pool
    taken = await pool.get_connection()
    connection = RawConnection(pool, taken)
    assert connection.may_stay
    closing = asyncio.create_task(taken.disconnect())
    await asyncio.sleep(0)
    assert not connection.may_stay
    await closing
    await connection.close()


async def test_a_command_may_be_longer_than_what_the_system_takes_at_once(redis: Redis) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
    pool = redis.connection_pool
    connection = await RawConnection.open(pool)
    assert await connection.ask(mget(*[b"k" * 10_000] * 1_000)) == [[None] * 1_000]
    await connection.close()
    assert await redis.get("k") is None
    assert problems == []


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        pytest.param([None], RedisConnectionError, id="none"),
        pytest.param([REPLY[:9], None], RedisConnectionError, id="half of one"),
        pytest.param([b"*1\r\n?what\r\n"], InvalidResponse, id="no reply at all"),
        pytest.param([b"*1\r\n?what\r\n", REPLY], InvalidResponse, id="one after it"),
        pytest.param([REPLY + REPLY], InvalidResponse, id="two"),
        pytest.param([b"?what\r\n"], InvalidResponse, id="not even an array"),
        pytest.param([b"-ERR no\r\n"], RedisError, id="an error"),
    ],
)
async def test_what_is_not_a_reply_is_an_error_once(
    pieces: list[bytes | None], error: type[RedisError]
) -> None:
    script = Script()
    async with script.running() as pool:
        reader = BatchReader(Redis.from_pool(pool), timeout=PATIENCE)
        script.pieces = pieces
        with pytest.raises(error):
            await reader.read([b"k"])
        script.pieces = [REPLY]
        assert await reader.read([b"k", b"l", b"m"]) == [VALUE, None, b""]


async def read_on(reader: BatchReader, *, readers: int, seconds: float) -> None:
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        while time.monotonic() < end:
            await reader.read([b"k%d" % number])

    await asyncio.gather(*map(one, range(readers)))


async def test_a_connection_is_kept_while_it_is_needed_but_not_for_good(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    get = FairPool.get_connection

    async def get_connection(self: FairPool) -> AbstractConnection:
        nonlocal taken
        taken += 1
        return await get(self)

    monkeypatch.setattr(FairPool, "get_connection", get_connection)
    reader = BatchReader(connect(), timeout=PATIENCE)
    for longest in HANG, 0.05, 0:
        monkeypatch.setattr(fast_redis, "_MAX_SECONDS", longest)
        taken = 0
        with counted_writes() as wire:
            await read_on(reader, readers=20, seconds=0.5)
        if longest == HANG:
            assert taken <= 2
        elif longest:
            assert 2 <= taken < len(wire)
        else:
            assert taken >= len(wire) - 1


async def test_who_waits_for_the_only_connection_gets_it(connect: Connect) -> None:
    await write_beside_readers(connect)


async def test_control_kept_from_others_it_would_be_busy(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FairPool, "is_exhausted", False)
    with pytest.raises(PoolTimeout):
        await write_beside_readers(connect, pool_timeout=0.5)


async def write_beside_readers(connect: Connect, pool_timeout: float = PATIENCE) -> None:
    client = connect(pool_size=1, pool_timeout=pool_timeout)
    reader, read, over = BatchReader(client, timeout=PATIENCE), 0, asyncio.Event()

    async def read_on(number: int) -> None:
        nonlocal read
        while not over.is_set():
            await reader.read([b"k%d" % number])
            read += 1

    readers = asyncio.gather(*map(read_on, range(9)))
    await until(lambda: read > 9)
    try:
        for number in range(10):
            await client.set("key", number)
    finally:
        over.set()
        await readers
