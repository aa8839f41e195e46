"""An application with cached routes, behind what browsers ask of it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol

import httpx2
import pytest
from fastapi import APIRouter, Header, HTTPException, Response, WebSocket
from redis.asyncio import Redis

from app.core.application import Application
from app.core.browser import CorsMiddleware, HostMiddleware
from app.core.cache import Cache, HttpCacheMiddleware
from app.core.error_answers import ErrorAnswers
from app.core.observability.requests import RequestMiddleware
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG
from tests.core.cache.harness import open_cache
from tests.core.cache.http.serving import serving

OWN_POLICY = "default-src 'self'"


class MakeApp(Protocol):
    """Makes the application; the arguments are those of the middleware, which is left out else."""

    def __call__(
        self,
        *,
        cors: dict[str, Any] | None = None,
        hosts: list[str] | None = None,
        **options: Any,
    ) -> Application: ...


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def redis(server: EmbeddedValkey) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def cache(server: EmbeddedValkey, redis: Redis) -> AsyncIterator[Cache]:
    async with open_cache(server.url) as cache:
        yield cache


@pytest.fixture
def make_app(cache: Cache) -> MakeApp:
    def make(
        *, cors: dict[str, Any] | None = None, hosts: list[str] | None = None, **options: Any
    ) -> Application:
        app = Application()
        app.include_router(routes(cache))
        ErrorAnswers().install(app)
        app.add_middleware(HttpCacheMiddleware)
        if cors is not None:
            app.add_middleware(CorsMiddleware, **cors)
        if hosts is not None:
            app.add_middleware(HostMiddleware, hosts=hosts)
        app.add_middleware(RequestMiddleware, **options)
        return app

    return make


@asynccontextmanager
async def asking_a_server(app: Application) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a real server, which sends hits in one piece where that is chosen."""
    async with (
        serving(app, http="httptools", access_log=False) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=HANG) as client,
    ):
        yield client


async def user(x_user: Annotated[str, Header()] = "nobody") -> str:
    return x_user


def routes(cache: Cache) -> APIRouter:
    router = APIRouter()
    policy = cache.policy("item", ttl=60)

    @router.get("/items/{item_id}")
    @policy.http(public=True)
    async def read(item_id: int) -> int:
        if item_id == 0:
            raise HTTPException(404, "no such item")
        return item_id

    @router.get("/mine/{item_id}")
    @policy.http(vary_by=user)
    async def read_mine(item_id: int) -> int:
        return item_id

    @router.get("/page")
    @policy.http(public=True)
    async def page() -> Response:
        own = {"content-security-policy": OWN_POLICY, "x-frame-options": "SAMEORIGIN"}
        return Response("<p>", media_type="text/html", headers=own)

    @router.post("/items", status_code=201)
    async def create() -> None: ...

    @router.get("/broken")
    async def broken() -> None:
        raise RuntimeError("on purpose")

    @router.get("/health/live")
    async def live() -> str:
        return "ok"

    @router.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    return router
