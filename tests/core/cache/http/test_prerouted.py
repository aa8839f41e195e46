"""The router takes the middleware's word for a cached route, and tells it what it always does."""

from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache import Cache, HttpCacheMiddleware
from app.core.fastpath.fastapi import PreroutedRoute
from tests.core.cache.http.serving import application, asking, status

NUMBER = "6b0a9a36-0f4e-4a35-8b55-2f0a5f2a5a33"


async def who(request: Request) -> str:
    """Everything the router is expected to have put into the scope."""
    scope = request.scope
    return "; ".join(
        (
            repr(scope["path_params"]),
            scope["route"].path_format,
            scope["endpoint"].__name__,
            str(request.url_for("read", prefix="p", id_=NUMBER)),
            request.method,
        )
    )


def routes(cache: Cache) -> APIRouter:
    policy = cache.policy("short", ttl=60)
    router = APIRouter(prefix="/v1")

    @router.get("/{prefix}/{id_:uuid}")
    @policy.http(vary_by=who, ignore=["told"])
    async def read(prefix: str, id_: UUID, told: str = Depends(who)) -> str:
        return told

    @router.get("/{other}")
    async def uncached(other: str) -> str:
        return other

    return router


async def test_a_route_is_told_the_same_either_way(cache: Cache) -> None:
    app = application(routes(cache))
    async with asking(app) as http:
        short = await http.get(f"/v1/p/{NUMBER}?a=1")
        again = await http.get(f"/v1/p/{NUMBER}?a=1")
        head = await http.head(f"/v1/p/{NUMBER}?a=1")
        app.router.middleware_stack = app.router.app
        long = await http.get(f"/v1/p/{NUMBER}?a=1")
    assert [status(response) for response in (short, again, head, long)] == [
        "fwd=miss", "hit", "hit", "hit"
    ]  # fmt: skip
    assert short.json() == again.json() == long.json()
    assert f"UUID('{NUMBER}')" in short.json()


async def test_the_routes_stay_as_they_are_however_often_the_application_starts(
    cache: Cache,
) -> None:
    app = application(routes(cache))
    before = [*app.routes]
    for _ in range(2):
        async with app.router.lifespan_context(app), asking(app) as http:
            assert (await http.get("/v1/x")).json() == "x"
    assert app.routes == before
    assert isinstance(app.router.middleware_stack, PreroutedRoute)
    assert set(app.openapi()["paths"]) == {"/v1/{prefix}/{id_}", "/v1/{other}"}


class Rewriting:
    """Between the middleware of the cache and the router."""

    def __init__(self, app: ASGIApp, change: dict[str, str]) -> None:
        self._app = app
        self._change = change

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, **self._change}, receive, send)


@pytest.mark.parametrize(
    ("change", "answer"), [({"path": "/v1/y"}, (200, "y")), ({"method": "POST"}, (405, None))]
)
async def test_what_became_another_request_finds_its_own_way(
    cache: Cache, change: dict[str, str], answer: tuple[int, str | None]
) -> None:
    app = FastAPI()
    app.include_router(routes(cache))
    app.add_middleware(Rewriting, change=change)
    app.add_middleware(HttpCacheMiddleware)
    async with asking(app) as http:
        response = await http.get(f"/v1/p/{NUMBER}")
    assert response.status_code == answer[0]
    assert answer[1] is None or response.json() == answer[1]


class Handled(APIRoute):
    """A route class of the service's own."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["path_params"]["other"] = "handled"
        await super().handle(scope, receive, send)


async def test_a_route_class_with_a_way_of_its_own_goes_it(cache: Cache) -> None:
    router = APIRouter(route_class=Handled)

    @router.get("/{other}")
    @cache.policy("handled", ttl=60).http(vary_by=lambda: "somebody")
    async def read(other: str) -> str:
        return other

    async with asking(application(router)) as http:
        assert (await http.get("/x")).json() == "handled"


class Wrapped(APIRoute):
    """The way FastAPI documents for looking at what a route does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def wrapped(request: Request) -> Response:
            response = await handle(request)
            response.headers["x-wrapped"] = "yes"
            return response

        return wrapped


async def test_a_route_class_with_a_handler_of_its_own_keeps_it(cache: Cache) -> None:
    router = APIRouter(route_class=Wrapped)

    @router.get("/{other}")
    @cache.policy("wrapped", ttl=60).http(vary_by=lambda: "somebody")
    async def read(other: str) -> str:
        return other

    async with asking(application(router)) as http:
        for _ in range(2):
            assert (await http.get("/x")).headers["x-wrapped"] == "yes"
