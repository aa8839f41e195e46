"""Reads of the same moment share a command, and nothing else: not errors, not cancellations."""

import asyncio
import errno
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.fastpath.redis import RawConnection
from app.core.redis import BatchReader, batching
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE
from tests.core.redis.conftest import Connect
from tests.support.wire import Wire, counted_writes


@pytest.fixture
def wire(redis: Redis) -> Iterator[Wire]:
    with counted_writes() as wire:
        yield wire


async def fill(redis: Redis, count: int) -> None:
    await redis.mset({f"k{number}": f"v{number}" for number in range(count)})


async def test_a_lone_read_is_sent_at_once(redis: Redis, wire: Wire) -> None:
    await fill(redis, 1)
    wire.writes.clear()
    assert await BatchReader(redis, timeout=PATIENCE).read([b"k0"]) == [b"v0"]
    assert len(wire) == 1


async def test_reads_that_wait_share_one_command(redis: Redis, wire: Wire) -> None:
    await fill(redis, 100)
    reader = BatchReader(redis, timeout=PATIENCE)
    wire.writes.clear()
    values = await asyncio.gather(*(reader.read([b"k%d" % n]) for n in range(100)))
    assert values == [[f"v{n}".encode()] for n in range(100)]
    assert len(wire) == 2  # the first alone, the others together


async def test_readers_that_come_right_back_stay_together(redis: Redis, wire: Wire) -> None:
    await fill(redis, 50)
    reader = BatchReader(redis, timeout=PATIENCE)
    wire.writes.clear()

    async def read_on(number: int) -> None:
        for _ in range(20):
            assert await reader.read([b"k%d" % number]) == [f"v{number}".encode()]

    await asyncio.gather(*(read_on(number) for number in range(50)))
    # Not one command for the one that was first, and then one for the others, in turn.
    assert len(wire) <= 23


async def test_a_key_that_many_want_is_asked_for_once(redis: Redis, wire: Wire) -> None:
    await fill(redis, 2)
    reader = BatchReader(redis, timeout=PATIENCE)
    wire.writes.clear()
    values = await asyncio.gather(*(reader.read([b"k0", b"k1"]) for _ in range(50)))
    assert values == [[b"v0", b"v1"]] * 50
    assert wire.text.count(b"k0") == 2


async def test_a_batch_has_a_largest_size(redis: Redis, wire: Wire) -> None:
    await fill(redis, 100)
    reader = BatchReader(redis, timeout=PATIENCE, max_keys=30)
    wire.writes.clear()
    values = await asyncio.gather(*(reader.read([b"k%d" % n]) for n in range(100)))
    assert values == [[f"v{n}".encode()] for n in range(100)]
    assert len(wire) == 5  # 1, 30, 30, 30, 9


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(reads=st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=5), max_size=30))
def test_everybody_gets_what_was_asked_for(server: EmbeddedValkey, reads: list[list[int]]) -> None:
    async def check() -> None:
        redis = Redis(host=server.host, port=server.port)
        await redis.flushall()
        await fill(redis, 10)
        reader = BatchReader(redis, timeout=PATIENCE, max_keys=7)
        keys = [[b"k%d" % number for number in read] for read in reads]
        expected = [[f"v{n}".encode() if n < 10 else None for n in read] for read in reads]
        assert await asyncio.gather(*map(reader.read, keys)) == expected
        await redis.aclose()

    asyncio.run(check())


async def test_a_cancelled_reader_harms_nobody(redis: Redis) -> None:
    await fill(redis, 20)
    reader = BatchReader(redis, timeout=PATIENCE)
    for victim in (0, 1, 7, 19):  # the first one sends for itself
        tasks = [asyncio.create_task(reader.read([b"k%d" % n])) for n in range(20)]
        await asyncio.sleep(0)
        tasks[victim].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        gone = answers.pop(victim)
        # Up to Python 3.11, `wait_for` in redis-py swallows the cancellation of a write just done.
        assert isinstance(gone, asyncio.CancelledError) or (victim == 0 and gone == [b"v0"])
        assert all(isinstance(answer, list) for answer in answers)


async def test_every_reader_of_a_failed_batch_gets_an_error_of_its_own(connect: Connect) -> None:
    with EmbeddedValkey() as server:
        client = connect(server.url)
        reader = BatchReader(client, timeout=0.2)
        await reader.read([b"k"])
        server.freeze()
        with counted_writes() as wire:
            answers = await asyncio.gather(
                *(reader.read([b"k%d" % n]) for n in range(20)), return_exceptions=True
            )
        # Those that queued behind the dead batch have not waited for another one.
        assert len(wire) == 1
        assert all(isinstance(answer, RedisTimeoutError) for answer in answers)
        assert len({id(answer) for answer in answers}) == 20
        server.thaw()
        assert await reader.read([b"k"]) == [None]


async def test_a_key_of_another_kind_is_none_and_spoils_nothing(redis: Redis) -> None:
    await fill(redis, 5)
    await redis.lpush("list", "x")
    reader = BatchReader(redis, timeout=PATIENCE)
    keys = [[b"k0"], [b"k1", b"list"], [b"k2"]]
    assert await asyncio.gather(*map(reader.read, keys)) == [[b"v0"], [b"v1", None], [b"v2"]]


async def test_a_lone_key_of_another_kind_is_none(redis: Redis) -> None:
    await redis.lpush("list", "x")
    assert await BatchReader(redis, timeout=PATIENCE).read([b"list"]) == [None]


async def stalled_read(connect: Connect) -> None:
    """The event loop stands still for longer than the timeout, and the reply comes meanwhile."""
    with EmbeddedValkey() as server:
        reader = BatchReader(connect(server.url), timeout=0.05)
        await reader.read([b"k"])
        server.freeze()
        read = asyncio.create_task(reader.read([b"k"]))
        await asyncio.sleep(0.01)  # it is sent
        server.thaw()
        stall(0.2)
        assert await read == [None]


def stall(seconds: float) -> None:
    """Keep the event loop from running, as a long computation does."""
    time.sleep(seconds)


async def test_a_stalled_loop_is_not_taken_for_a_slow_server(connect: Connect) -> None:
    await stalled_read(connect)


async def test_the_control_takes_it_for_one(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_GRACE_TURNS", 0)
    monkeypatch.setattr(batching, "_STALL", float("inf"))
    with pytest.raises(RedisTimeoutError):
        await stalled_read(connect)


async def test_stopped_in_the_middle_nobody_is_left_waiting(connect: Connect) -> None:
    with EmbeddedValkey() as server:
        client = connect(server.url)
        reader = BatchReader(client, timeout=PATIENCE)
        await reader.read([b"k"])
        server.freeze()
        readers = [asyncio.create_task(reader.read([b"k%d" % n])) for n in range(10)]
        await asyncio.sleep(0.05)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        answers = await asyncio.gather(*readers, return_exceptions=True)
        assert all(isinstance(a, asyncio.CancelledError | RedisError) for a in answers)
        server.thaw()


async def test_a_connection_that_the_system_gives_up_is_an_error_and_not_an_answer(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(redis, 1)
    reader = BatchReader(redis, timeout=PATIENCE)

    def timed_out(self: RawConnection, _: bytes) -> None:
        transport: Any = self._transport
        transport._force_close(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))

    with monkeypatch.context() as patch:
        patch.setattr(RawConnection, "data_received", timed_out)
        with pytest.raises(RedisConnectionError):
            await reader.read([b"k0"])
    assert await reader.read([b"k0"]) == [b"v0"]
