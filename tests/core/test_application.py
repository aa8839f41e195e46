"""Middleware around the cache stands around FastAPI's own, in the order it was added in."""

from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyCookie
from fastapi.staticfiles import StaticFiles
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core import openapi
from app.core.application import Application
from app.core.cache import Cache, HttpCacheMiddleware
from app.core.observability.requests import RequestMiddleware, internal_error
from app.core.redis import ClientOptions, create_client
from app.core.serializers.json import JsonSerializer
from tests.core.cache.http.serving import serving
from tests.support.problems import problem_of


class Named:
    def __init__(self, app: ASGIApp, name: str, passed: list[str]) -> None:
        self._app, self._name, self._passed = app, name, passed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._passed.append(self._name)
        await self._app(scope, receive, send)


def asking(app: FastAPI) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://service")


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers that a request passed."""
    layers: list[str] = []

    def watch(layer: type[Any]) -> None:
        original = layer.__call__

        async def call(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
            layers.append(layer.__name__)
            await original(self, scope, receive, send)

        monkeypatch.setattr(layer, "__call__", call)

    watch(ServerErrorMiddleware)
    watch(HttpCacheMiddleware)
    return layers


@pytest.mark.parametrize(
    ("kind", "cached", "order"),
    [
        (
            Application,
            True,
            ["after", "HttpCacheMiddleware", "ServerErrorMiddleware", "before"],
        ),
        (Application, False, ["ServerErrorMiddleware", "after", "before"]),
        (FastAPI, True, ["ServerErrorMiddleware", "after", "HttpCacheMiddleware", "before"]),
    ],
)
async def test_the_order(
    kind: type[FastAPI], cached: bool, order: list[str], passed: list[str]
) -> None:
    app = kind()
    app.add_middleware(Named, name="before", passed=passed)
    if cached:
        app.add_middleware(HttpCacheMiddleware)
    app.add_middleware(Named, name="after", passed=passed)
    async with asking(app) as http:
        assert (await http.get("/nowhere")).status_code == 404
    assert passed == order
    assert len(app.user_middleware) == 2 + cached


@pytest.mark.parametrize("kind", [Application, FastAPI])
async def test_a_broken_route_is_answered_with_one_id(kind: type[FastAPI]) -> None:
    app = kind()
    app.add_middleware(HttpCacheMiddleware)
    app.add_middleware(RequestMiddleware)
    app.add_exception_handler(Exception, internal_error)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the reason")

    async with asking(app) as http:
        response = await http.get("/broken", headers={"x-request-id": "mine"})
    assert response.status_code == 500
    assert response.json()["request_id"] == "mine"
    assert response.headers.get_list("x-request-id") == ["mine"]


async def test_what_was_added_last_sees_every_answer() -> None:
    app = Application()
    app.add_middleware(HttpCacheMiddleware)
    app.add_middleware(CORSMiddleware, allow_origins=["http://page"])

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the reason")

    async with asking(app) as http:
        response = await http.get("/broken", headers={"origin": "http://page"})
    assert response.status_code == 500
    assert response.headers["access-control-allow-origin"] == "http://page"


async def test_its_requests_are_traced() -> None:
    """By FastAPI's own telemetry, also after the start, when the layers are built."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = Application(telemetry={"tracer_provider": provider})
    app.add_middleware(HttpCacheMiddleware)

    @app.get("/items/{item_id}")
    async def read(item_id: int) -> int:
        return item_id

    async with serving(app) as port, httpx2.AsyncClient() as http:
        for item_id in range(2):
            await http.get(f"http://127.0.0.1:{port}/items/{item_id}")
    requests = [span.name for span in exporter.get_finished_spans() if span.parent is None]
    assert requests == ["GET /items/{item_id}"] * 2


def test_whoever_wraps_the_stack_finds_that_of_fastapi() -> None:
    """As OpenTelemetry's instrumentation does, which gives up when it finds another one."""
    app = Application()
    app.add_middleware(HttpCacheMiddleware)
    original = app.build_middleware_stack
    assert not isinstance(original(), ServerErrorMiddleware)
    wrapped: list[ASGIApp] = []

    def build() -> ASGIApp:
        wrapped.append(original())
        return wrapped[-1]

    app.build_middleware_stack = build  # type: ignore[method-assign] # so do they
    assert isinstance(app.build_middleware_stack(), ServerErrorMiddleware)
    assert wrapped


def with_all_kinds_of_routes() -> Application:
    """A cached route, routers, a mount, and a path of which each method is a route of its own."""
    client = create_client("redis://127.0.0.1:1", ClientOptions(name="test"))  # nobody asks it
    cache, app = Cache(client, service="svc", serializer=JsonSerializer()), Application()
    router = APIRouter(prefix="/things")

    @router.get("/{thing_id}")
    @cache.policy("thing", ttl=60).http(public=True)
    async def read(thing_id: str) -> str:
        return thing_id

    @router.put("/{thing_id}")
    async def change(thing_id: str) -> None: ...

    @router.delete("/{thing_id}")
    async def delete(thing_id: str) -> None: ...

    @app.post("/single")
    async def single() -> None: ...

    @app.get("/says")
    async def says() -> None:
        raise HTTPException(405, headers={"Allow": "POST"})

    outer = APIRouter(prefix="/v1")
    outer.include_router(router)
    app.include_router(outer)
    app.mount("/files", StaticFiles(directory=Path(__file__).parent))
    app.add_middleware(HttpCacheMiddleware)
    return app


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/things/1", "DELETE, GET, HEAD, PUT"),
        ("OPTIONS", "/v1/things/1", "DELETE, GET, HEAD, PUT"),
        ("GET", "/single", "POST"),
        ("GET", "/says", "POST"),
        ("POST", "/files/v1/things/1", "GET, HEAD"),
        ("POST", "/files/single", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/service"])
async def test_a_method_that_is_not_there_is_told_all_that_are(
    method: str, path: str, allowed: str, prefix: str
) -> None:
    app = with_all_kinds_of_routes()
    app.root_path = prefix
    async with asking(app) as http:
        answer = await http.request(method, prefix + path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    assert problem_of(answer)["title"] == "Method Not Allowed"


async def test_a_method_that_is_not_there_is_answered_as_other_mistakes_are() -> None:
    app = with_all_kinds_of_routes()

    @app.exception_handler(StarletteHTTPException)
    def own(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return JSONResponse({"own": error.detail}, error.status_code, error.headers)

    async with asking(app) as http:
        answer = await http.post("/v1/things/1")
    assert answer.json() == {"own": "Method Not Allowed"}
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"


class LooksOnly(APIKeyCookie):
    """A session: whoever has none gets one."""

    is_optional = True


looks = LooksOnly(name="session", auto_error=False)


async def needs_login(session: Annotated[str | None, Depends(looks)]) -> str:
    return session or ""


async def test_the_api_document_has_what_every_route_may_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openapi, "NEEDS_LOGIN", {needs_login})
    client = create_client("redis://127.0.0.1:1", ClientOptions(name="test"))  # nobody asks it
    cache, app = Cache(client, service="svc", serializer=JsonSerializer()), Application()

    @app.get("/cached/{item_id}")
    @cache.policy("p", ttl=60).http(public=True)
    async def cached(item_id: int) -> int:
        return item_id

    @app.post("/body")
    async def body(numbers: list[int]) -> None: ...

    @app.post("/login")
    async def log_in(session: Annotated[str | None, Depends(looks)]) -> None: ...

    @app.get("/mine")
    async def mine(user: Annotated[str, Depends(needs_login)]) -> None: ...

    paths, always = app.openapi()["paths"], {"400", "500", "503"}
    answers = {
        f"{method} {path}": set(operation["responses"])
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert answers == {
        "get /cached/{item_id}": {"200", "304", "412", "422"} | always,
        "head /cached/{item_id}": {"200", "304", "412", "422"} | always,
        "post /body": {"200", "408", "413", "422"} | always,
        "post /login": {"200", "401", "403"} | always,
        "get /mine": {"200", "401", "403"} | always,
    }
    # Also where it is a token that is missing or has expired.
    assert paths["/mine"]["get"]["responses"]["401"]["description"] == "Not authenticated"
    assert paths["/login"]["post"]["security"][0] == {}, "nobody has to be logged in to log in"
    assert {} not in paths["/mine"]["get"]["security"]
    assert "content" not in paths["/cached/{item_id}"]["head"]["responses"]["200"]
    schemas = app.openapi()["components"]["schemas"]
    assert set(schemas) == {"ProblemDetails", "ValidationProblemDetails"}, "and none of FastAPI's"
    for status, answer in paths["/body"]["post"]["responses"].items():
        if status >= "400":
            name = "ValidationProblemDetails" if status == "422" else "ProblemDetails"
            schema = answer["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": f"#/components/schemas/{name}"}
    assert app.openapi() is app.openapi()
