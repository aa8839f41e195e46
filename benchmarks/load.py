"""Requests over loopback, as fast as connections allow (closed loop) or on time (open loop).

A protocol on uvloop that does nothing but find the end of a response. One core of it sends several
times what uvicorn answers at best; `Sample.busy` says how much of the core it took.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple, TypeVar, cast

import uvloop

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds after which a request has failed."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_USER = "x-user: alice"
"""For routes whose answer depends on who asks; the others do not look at it."""


class Answer(NamedTuple):
    ended: float
    """When it was there, in seconds from the start."""
    seconds: float
    """How long it took; an open loop counts from when the request was due."""
    status: int


@dataclass(slots=True)
class Sample:
    """What came of a number of requests."""

    answers: list[Answer] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    """0: no answer."""
    duration: float = 0
    busy: float = 0
    """The share of its core that the load generator took."""

    @property
    def seconds(self) -> list[float]:
        """How long each answer took, good or bad."""
        return [answer.seconds for answer in self.answers]

    @property
    def errors(self) -> int:
        return sum(self.statuses.values()) - self.statuses[200]

    @property
    def per_second(self) -> float:
        """Good answers."""
        return self.statuses[200] / self.duration


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def saturate(
    ports: Sequence[int], paths: Sequence[str], *, connections: int, seconds: float
) -> Sample:
    """Each connection sends its next request when it has the answer to the last one."""
    sample = Sample()
    requests = _requests(paths)
    done = asyncio.Event()
    open_ = connections
    started = time.perf_counter()
    deadline = started + seconds

    def answered(connection: _Connection, status: int, took: float, now: float) -> None:
        nonlocal open_
        sample.statuses[status] += 1
        if status:
            sample.answers.append(Answer(now - started, took, status))
        if now < deadline and status:
            connection.send(next(requests), now)
        else:
            open_ -= 1
            if not open_:
                done.set()

    pool = await _connect(ports, connections, answered)
    began_cpu, started = time.process_time(), time.perf_counter()
    deadline = started + seconds
    for connection in pool:
        connection.send(next(requests), time.perf_counter())
    try:
        async with asyncio.timeout(seconds + PATIENCE):
            await done.wait()
    except TimeoutError:
        sample.statuses[0] += open_
    sample.duration = time.perf_counter() - started
    sample.busy = (time.process_time() - began_cpu) / sample.duration
    for connection in pool:
        connection.close()
    return sample


async def burst(ports: Sequence[int], path: str, *, requests: int) -> Sample:
    """All at once, each on a connection of its own that is open already."""
    return await saturate(ports, [path], connections=requests, seconds=0)


async def steadily(
    port: int, paths: Sequence[str], *, rate: float, seconds: float, patience: float = PATIENCE
) -> Sample:
    """A request every 1/rate seconds, whether or not the last one was answered.

    A request that is not answered after `patience` seconds has failed.
    """
    sample = Sample()
    requests = _requests(paths)
    idle: list[_Connection] = []
    due: dict[_Connection, float] = {}
    started = time.perf_counter()

    def answered(connection: _Connection, status: int, took: float, now: float) -> None:
        if (was_due := due.pop(connection, None)) is None:
            return  # it has failed before
        sample.statuses[status] += 1
        if status:
            sample.answers.append(Answer(now - started, now - was_due, status))
            idle.append(connection)

    async def send(at: float) -> None:
        while idle and idle[-1].closed:
            idle.pop()
        try:
            connection = idle.pop() if idle else (await _connect([port], 1, answered))[0]
        except OSError:
            sample.statuses[0] += 1
            return
        due[connection] = at
        connection.send(next(requests), time.perf_counter())

    def drop_late(now: float) -> None:
        for connection in [late for late, at in due.items() if now - at > patience]:
            due.pop(connection)
            sample.statuses[0] += 1
            connection.close()

    idle += await _connect([port], 8, answered)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as sending:
        for number in range(int(rate * seconds)):
            at = started + number / rate
            if (wait := at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            sending.create_task(send(at))
            drop_late(time.perf_counter())
    while due:
        await asyncio.sleep(0.02)
        drop_late(time.perf_counter())
    sample.duration = time.perf_counter() - started
    for connection in idle:
        connection.close()
    return sample


async def fetch(port: int, path: str, *, patience: float = PATIENCE) -> int:
    """The status of one request; 0 if it was not answered."""
    sample = await steadily(port, [path], rate=1, seconds=1, patience=patience)
    return next(iter(sample.statuses))


async def fetch_all(port: int, paths: Sequence[str], *, connections: int = 16) -> None:
    """Request each path once, so that it is cached.

    Raises:
        RuntimeError: one was not answered with 200.
    """
    left = iter(paths)
    statuses: Counter[int] = Counter()
    done = asyncio.Event()
    open_ = min(connections, len(paths))

    def answered(connection: _Connection, status: int, took: float, now: float) -> None:
        nonlocal open_
        statuses[status] += 1
        if status and (path := next(left, None)) is not None:
            connection.send(_request(path), now)
            return
        open_ -= 1
        if not open_:
            done.set()

    pool = await _connect([port], open_, answered)
    for connection in pool:
        connection.send(_request(next(left)), time.perf_counter())
    async with asyncio.timeout(60):
        await done.wait()
    for connection in pool:
        connection.close()
    if statuses.keys() != {200}:
        raise RuntimeError(f"{paths[0]} and others were answered with {dict(statuses)}")


Answered = Callable[["_Connection", int, float, float], None]
"""Gets the connection, the status (0: none), the seconds it took, and the time."""


class _Connection(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, answered: Answered) -> None:
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._status = 0
        self._missing = -1
        """Bytes of the body that have not come; below 0: the head has not come."""
        self._began = 0.0
        self._waiting = False

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def send(self, request: bytes, now: float) -> None:
        self._began, self._waiting = now, True
        if self._transport is None or self._transport.is_closing():
            self._end(0)
        else:
            self._transport.write(request)

    def close(self) -> None:
        self._waiting = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass

    def data_received(self, data: bytes) -> None:
        if self._missing >= 0:
            self._missing -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._head, 0, end)
            if length is None:
                raise ValueError(f"a response without content-length: {self._head[:end]!r}")
            self._status = int(self._head[9:12])
            self._missing = int(length[1]) - (len(self._head) - end - 4)
        if self._missing == 0:
            self._end(self._status)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting:
            self._end(0)

    def _end(self, status: int) -> None:
        if not self._waiting:
            return
        self._head, self._missing, self._waiting = b"", -1, False
        now = time.perf_counter()
        self._answered(self, status, now - self._began, now)


async def _connect(ports: Sequence[int], count: int, answered: Answered) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    pool = []
    for _, port in zip(range(count), cycle(ports), strict=False):
        _, connection = await loop.create_connection(
            lambda: _Connection(answered), "127.0.0.1", port
        )
        pool.append(connection)
    return pool


def _requests(paths: Sequence[str]) -> Iterator[bytes]:
    return cycle([_request(path) for path in paths])


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: bench\r\naccept: */*\r\n{_USER}\r\n\r\n".encode()
