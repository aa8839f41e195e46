import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from prometheus_client import REGISTRY
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.observability import requests
from app.core.observability.logging import request_id
from app.core.observability.requests import RequestMiddleware, internal_error
from app.core.scope import ROUTE_TEMPLATE
from tests.observability.conftest import Lines


class Clock:
    """The only one that the measured times come from."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(requests, "perf_counter", clock)
    return clock


def create_app(clock: Clock | None = None) -> FastAPI:
    app = FastAPI()
    items = APIRouter(prefix="/things")

    @items.get("/{thing_id}")
    async def thing(thing_id: int) -> str | None:
        return request_id.get()

    version = APIRouter(prefix="/v1")
    version.include_router(items)
    app.include_router(version)

    @app.get("/unavailable")
    async def unavailable() -> None:
        raise HTTPException(503)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the reason")

    @app.get("/slow")
    async def slow() -> None:
        if clock is not None:
            clock.now += 0.25

    inner = FastAPI()

    @inner.get("/part/{part_id}")
    async def part(part_id: int) -> None: ...

    app.mount("/tenants/{tenant}", inner)
    return app


def client(app: ASGIApp, **options: Any) -> httpx2.AsyncClient:
    if isinstance(app, FastAPI):
        app.add_middleware(RequestMiddleware, **options)
        app.add_exception_handler(Exception, internal_error)
    else:
        app = RequestMiddleware(app, **options)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://service")


def counted(**labels: str) -> float:
    return REGISTRY.get_sample_value("http_requests_total", labels) or 0.0


@pytest.mark.parametrize("given", ["a", "0f-1E_2.x", "x" * 128])
async def test_the_id_of_the_client_is_kept(given: str) -> None:
    async with client(create_app()) as http:
        response = await http.get("/v1/things/1", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == given
    assert response.json() == given
    assert request_id.get() is None


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, b'"', b"a\tb", b"\xc3\xa9", b"a;b=1"])
async def test_an_unfit_id_is_replaced(given: bytes) -> None:
    async with client(create_app()) as http:
        response = await http.get("/v1/things/1", headers={b"X-Request-ID": given})
    assert len(response.headers["x-request-id"]) == 32
    assert response.headers["x-request-id"] == response.json()


async def test_concurrent_requests_have_ids_of_their_own() -> None:
    async with client(create_app()) as http:
        responses = await asyncio.gather(*(http.get("/v1/things/1") for _ in range(50)))
    assert all(response.json() == response.headers["x-request-id"] for response in responses)
    assert len({response.json() for response in responses}) == 50


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("GET", "/v1/things/1", ("GET", "/v1/things/{thing_id}", "200")),
        ("GET", "/v1/things/x", ("GET", "/v1/things/{thing_id}", "422")),
        ("PUT", "/v1/things/1", ("PUT", "/v1/things/{thing_id}", "405")),
        ("GET", "/tenants/acme/part/1", ("GET", "/part/{part_id}", "200")),
        ("GET", "/nowhere/1", ("GET", "unmatched", "404")),
        ("BREW", "/nowhere/2", ("other", "unmatched", "404")),
        ("GET", "/broken", ("GET", "/broken", "500")),
    ],
)
async def test_requests_are_counted_by_route(
    method: str, path: str, labels: tuple[str, str, str]
) -> None:
    named = dict(zip(("method", "route", "status"), labels, strict=True))
    async with client(create_app()) as http:
        before = counted(**named)
        for _ in range(3):
            await http.request(method, path)
        assert counted(**named) == before + 3


async def test_durations_are_observed(clock: Clock) -> None:
    labels = {"method": "GET", "route": "/slow"}
    async with client(create_app(clock)) as http:
        await http.get("/slow")
    count = REGISTRY.get_sample_value("http_request_duration_seconds_count", labels)
    total = REGISTRY.get_sample_value("http_request_duration_seconds_sum", labels)
    assert count is not None
    assert total is not None
    assert total / count == 0.25


async def test_a_layer_in_front_of_the_router_names_the_route() -> None:
    message = {"type": "http.response.start", "status": 200, "headers": [(b"x-cache", b"hit")]}

    async def cache(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE_TEMPLATE] = "/cached/{key}"
        await send(message)
        await send({"type": "http.response.body", "body": b"hit"})

    async with client(cache) as http:
        before = counted(method="GET", route="/cached/{key}", status="200")
        responses = [await http.get("/cached/1"), await http.get("/cached/2")]
    assert counted(method="GET", route="/cached/{key}", status="200") == before + 2
    assert [len(response.headers.get_list("x-request-id")) for response in responses] == [1, 1]
    assert message["headers"] == [(b"x-cache", b"hit")], "what a cache keeps is left alone"


async def test_an_exception_is_logged_with_the_id_that_the_client_sees(lines: Lines) -> None:
    async with client(create_app()) as http:
        response = await http.get("/broken?token=secret")
    [line] = lines()
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert line["request_id"] == response.headers["x-request-id"]
    assert line["event"] == "request.failed"
    assert line["level"] == "error"
    assert (line["method"], line["path"], line["route"]) == ("GET", "/broken", "/broken")
    assert "RuntimeError: the reason" in line["exception"]
    assert "secret" not in str(line)


async def test_what_a_middleware_raises_is_answered_and_logged(lines: Lines) -> None:
    async def raises(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the reason")

    async with client(raises) as http:
        response = await http.get("/")
    [line] = lines()
    assert (response.status_code, response.json()["title"]) == (500, "Internal Server Error")
    assert response.json()["request_id"] == line["request_id"]
    assert "RuntimeError: the reason" in line["exception"]


async def test_a_server_error_without_an_exception_is_logged(lines: Lines) -> None:
    async with client(create_app()) as http:
        await http.get("/unavailable")
    [line] = lines()
    assert (line["event"], line["status"]) == ("request.failed", 503)
    assert "exception" not in line


async def test_what_a_probe_is_told_is_not_logged(lines: Lines) -> None:
    async with client(create_app(), quiet=["/unavailable", "/broken"]) as http:
        await http.get("/unavailable")
        assert lines() == []
        await http.get("/broken")
    assert [line["route"] for line in lines()] == ["/broken"], "an exception is another matter"


async def test_only_slow_requests_are_logged(lines: Lines, clock: Clock) -> None:
    async with client(create_app(clock), slow=0.2) as http:
        await http.get("/v1/things/1")
        await http.get("/nowhere")
        assert lines() == []
        await http.get("/slow")
    [line] = lines()
    assert (line["event"], line["level"], line["route"]) == ("request.slow", "warning", "/slow")
    assert line["seconds"] == 0.25


async def test_a_response_that_breaks_off_counts_as_failed() -> None:
    async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE_TEMPLATE] = "/breaks-off"
        await PlainTextResponse("the first half")(scope, receive, send)
        raise RuntimeError

    async with client(breaks_off) as http:
        await http.get("/")
    assert counted(method="GET", route="/breaks-off", status="500") == 1
    assert counted(method="GET", route="/breaks-off", status="200") == 0


async def test_a_cancelled_request_is_not_an_error_of_the_service(lines: Lines) -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE_TEMPLATE] = "/waits"
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    async with client(waits) as http:
        request = asyncio.create_task(http.get("/"))
        await begun.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert counted(method="GET", route="/waits", status="499") == 1
    assert lines() == []


async def test_whoever_asks_is_told_of_every_request() -> None:
    named = {"method": "GET", "route": "/v1/things/{thing_id}"}
    async with client(create_app()) as http:
        for number in range(130):
            await http.get("/v1/things/1")
            if number in (0, 98, 99, 129):  # they are gathered by the hundred
                total = counted(**named, status="200")
                observed = REGISTRY.get_sample_value("http_request_duration_seconds_count", named)
                assert observed is not None
                if number == 0:
                    first, first_observed = total, observed
                assert (total - first, observed - first_observed) == (number, number)
