"""What is measured is this service: with its cache, and really without."""

import asyncio
from collections.abc import Callable
from time import perf_counter

import httpx2
import pytest
from fastapi import FastAPI

from app.core.cache import Kept, keep
from benchmarks import traffic
from benchmarks.client import PATIENCE, at_once, per_second, steadily
from benchmarks.routes import cached_paths
from benchmarks.serve import returning_values
from benchmarks.server import Service, ServiceFailed, running
from devservers.server import free_port
from devservers.waiting import HANG
from tests.conftest import Client


@pytest.fixture
def environment(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in servers.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOG_LEVEL", "ERROR")


async def ask(service: Service) -> list[bool]:
    """Ask three times for one thing: whether the answers say that a cache was asked."""
    async with httpx2.AsyncClient(base_url=service.url, trust_env=False, timeout=HANG) as client:
        if not (paths := await traffic.paths(client)):
            pytest.skip("no route is cached")
        [path, *_] = next(iter(paths.values()))
        answers = [await client.get(path, headers=traffic.HEADERS) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    return ["cache-status" in answer.headers for answer in answers]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("cached", [True, False])
def test_the_service_with_and_without_its_cache(cached: bool) -> None:
    with running(cached=cached) as [service]:
        assert asyncio.run(ask(service)) == [cached] * 3
        assert service.loads() == (1 if cached else 0)


async def awaited(number: int) -> Kept[int]:
    return keep(number, ttl=5)


def threaded(number: int) -> Kept[int] | int:
    return keep(number)


@pytest.mark.parametrize("function", [awaited, threaded])
async def test_without_the_cache_routes_answer_with_the_value_alone(
    function: Callable[..., object],
) -> None:
    app = FastAPI()
    app.get("/{number}")(returning_values(function))
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
        assert (await client.get("/7")).json() == 7


@pytest.mark.usefixtures("environment")
async def test_traffic_has_every_cached_route(client: Client) -> None:
    paths = await traffic.paths(client)
    assert set(cached_paths(client.app)) <= paths.keys()
    for requests in paths.values():
        for path in requests[:3]:
            assert (await client.get(path, headers=traffic.HEADERS)).status_code == 200


def test_a_service_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "nonsense")
    with pytest.raises(ServiceFailed), running():
        pass


async def test_requests_that_nobody_answers_have_failed() -> None:
    [answer] = await steadily(free_port(), ["/"], {}, rate=10, seconds=0.1)
    assert answer.status == 0
    assert answer.seconds < PATIENCE


async def test_every_answer_is_counted() -> None:
    answered = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            answered += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        started = perf_counter()
        rate = await per_second(port, ["/"], {}, connections=8, seconds=0.2)
        took = perf_counter() - started
    assert answered >= 8
    assert rate >= answered / took  # it is over when the last one is answered, and not later


async def test_lost_connections_are_failures() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        answers = await at_once([port], "/", {}, requests=5)
    assert [answer.status for answer in answers] == [0] * 5
