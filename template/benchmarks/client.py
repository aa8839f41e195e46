"""HTTP requests, timed. It does far less than a real client, so that it is not what is measured."""

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

PATIENCE = 5.0
"""Seconds after which a request counts as failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    at: float
    """When it was asked for, in seconds from the start of what is measured."""
    seconds: float
    status: int
    """0: there was none."""

    @property
    def good(self) -> bool:
        return self.status == 200


class Connection:
    """One that is kept alive, and opened again when it was lost."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        self._port = port
        lines = {"host": "127.0.0.1", "accept": "*/*", **headers}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str, *, since: float = 0.0) -> Answer:
        """Ask, and wait for the whole answer."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self._exchange(path)
        except (OSError, asyncio.IncompleteReadError):  # a time-out is an OSError as well
            self.close()
            status = 0
        return Answer(started - since, time.perf_counter() - started, status)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    async def _exchange(self, path: str) -> int:
        reader, writer = await self._open()
        writer.write(f"GET {path} HTTP/1.1\r\n{self._headers}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or 0))
        return int(head.split(b" ", 2)[1])


async def in_turn(port: int, paths: Sequence[str], headers: Mapping[str, str]) -> list[Answer]:
    """One after the other."""
    async with Connection(port, headers) as connection:
        return [await connection.get(path) for path in paths]


async def at_once(
    ports: Sequence[int], path: str, headers: Mapping[str, str], *, requests: int
) -> list[Answer]:
    """Each on a connection of its own that is open already; they take turns with the ports."""
    connections = [Connection(ports[n % len(ports)], headers) for n in range(requests)]
    for connection in connections:
        await connection.__aenter__()
    try:
        return await asyncio.gather(*(connection.get(path) for connection in connections))
    finally:
        for connection in connections:
            connection.close()


async def per_second(
    port: int,
    paths: Sequence[str],
    headers: Mapping[str, str],
    *,
    connections: int,
    seconds: float,
) -> float:
    """Good answers a second, when each connection asks again as soon as it has an answer.

    Each asks at least once.
    """
    good = 0
    started = time.perf_counter()

    async def ask(first: int) -> None:
        nonlocal good
        async with Connection(port, headers) as connection:
            for path in itertools.islice(itertools.cycle(paths), first % len(paths), None):
                answer = await connection.get(path)
                good += answer.good  # not across the await: others count meanwhile
                if time.perf_counter() - started >= seconds:
                    break

    await asyncio.gather(*(ask(number) for number in range(connections)))
    return good / (time.perf_counter() - started)


async def steadily(
    port: int, paths: Sequence[str], headers: Mapping[str, str], *, rate: float, seconds: float
) -> list[Answer]:
    """A request every 1/rate seconds, whether or not the last one was answered."""
    idle: list[Connection] = []
    started = time.perf_counter()

    async def ask(path: str) -> Answer:
        connection = idle.pop() if idle else Connection(port, headers)
        try:
            return await connection.get(path, since=started)
        finally:
            idle.append(connection)

    asking = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(started + number / rate - time.perf_counter())
        asking.append(asyncio.create_task(ask(paths[number % len(paths)])))
    answers = await asyncio.gather(*asking)
    for connection in idle:
        connection.close()
    return answers
