"""The load generator tells what happened, against servers that misbehave on purpose."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks import load

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n"


@asynccontextmanager
async def server(handle: Handler) -> AsyncIterator[int]:
    """Call `handle` for every request; yields the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await handle(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


async def good(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD % (200, 2) + b"ok")


async def in_pieces(writer: asyncio.StreamWriter) -> None:
    response = HEAD % (200, 2000) + b"x" * 2000
    for start in range(0, len(response), 700):
        writer.write(response[start : start + 700])
        await asyncio.sleep(0.001)


async def failing(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD % (503, 0))


async def hanging_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def silent(writer: asyncio.StreamWriter) -> None:
    pass


@pytest.mark.parametrize("handle", [good, in_pieces])
async def test_answers_are_counted_and_timed(handle: Handler) -> None:
    async with server(handle) as port:
        sample = await load.saturate([port], ["/"], connections=4, seconds=0.1)
    assert sample.errors == 0
    assert len(sample.seconds) == sample.statuses[200] >= 4
    assert all(0 < seconds < sample.duration for seconds in sample.seconds)


async def test_a_burst_is_one_request_per_connection() -> None:
    async with server(good) as port:
        sample = await load.burst([port], "/", requests=50)
    assert sample.statuses == {200: 50}


async def test_bad_answers_are_errors() -> None:
    async with server(failing) as port:
        sample = await load.steadily(port, ["/"], rate=100, seconds=0.1)
    assert sample.statuses == {503: 10}
    assert sample.errors == 10


async def test_lost_connections_are_errors_and_do_not_stop_the_load() -> None:
    async with server(hanging_up) as port:
        sample = await load.steadily(port, ["/"], rate=100, seconds=0.1)
    assert sample.statuses == {0: 10}


async def test_a_server_that_is_not_there_is_an_error() -> None:
    async with server(good) as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        await load.steadily(port, ["/"], rate=10, seconds=0.1)


async def test_silence_is_an_error_after_a_while() -> None:
    async with server(silent) as port:
        sample = await load.steadily(port, ["/"], rate=100, seconds=0.1, patience=0.2)
    assert sample.statuses == {0: 10}
    assert sample.seconds == []


async def test_an_open_loop_counts_from_when_a_request_was_due() -> None:
    """A server that stands still keeps requests waiting that it has not seen yet."""
    first = asyncio.Event()

    async def stalling(writer: asyncio.StreamWriter) -> None:
        if not first.is_set():
            first.set()
            await asyncio.sleep(0.3)
        writer.write(HEAD % (200, 0))

    async with server(stalling) as port:
        sample = await load.steadily(port, ["/"], rate=50, seconds=0.2)
    assert max(sample.seconds) >= 0.3
    assert sample.statuses == {200: 10}


async def test_what_cannot_be_cached_first_is_said() -> None:
    async with server(failing) as port:
        with pytest.raises(RuntimeError, match="503"):
            await load.fetch_all(port, ["/a", "/b"])
