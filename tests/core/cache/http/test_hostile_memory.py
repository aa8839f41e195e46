"""What strangers send does not stay: the memory of a process is as before, whatever they chose."""

import gc
import os
from itertools import count
from random import Random
from typing import Annotated, Any
from urllib.parse import quote, unquote
from uuid import UUID, uuid4

import psutil
import pytest
from fastapi import APIRouter, Cookie, FastAPI, HTTPException
from redis.asyncio import Redis

from app.core.application import Application
from app.core.cache import Cache, HttpCacheMiddleware
from app.core.observability.requests import RequestMiddleware, internal_error
from tests.core.cache.conftest import OpenCache
from tests.core.cache.http.serving import Item

REQUESTS = int(os.environ.get("HOSTILE_REQUESTS", "20000"))
MEGABYTE = 1024 * 1024
# Half of the requests are long ones, such as uvicorn lets through.
LONG = 64_000


def service(cache: Cache) -> FastAPI:
    """Cached routes of the usual kinds, as `main.py` puts them together."""
    router = APIRouter()

    async def who(session: Annotated[str | None, Cookie()] = None) -> str | None:
        return session

    @router.get("/items")
    @cache.policy("page", ttl=600, near_ttl=60).http(public=True, tags=["items"])
    async def page(cursor: UUID | None = None, limit: int = 20) -> list[Item]:
        return [Item(id=limit, name=str(cursor))]

    @router.get("/items/{item_id}")
    @cache.policy("item", ttl=600, near_ttl=60).http(
        public=True, tags=lambda item_id: [f"item:{item_id}"]
    )
    async def read(item_id: UUID) -> Item:
        raise HTTPException(404, "no such item")

    @router.get("/search")
    @cache.policy("search", ttl=600, near_ttl=60).http(public=True, tags=lambda q: [f"q:{q}"])
    async def search(q: str = "") -> int:
        return len(q)

    @router.get("/mine/{name}")
    @cache.policy("mine", ttl=600, near_ttl=60).http(vary_by=who)
    async def mine(name: str) -> int:
        return len(name)

    app = Application()
    app.include_router(router)
    app.add_exception_handler(Exception, internal_error)
    app.add_middleware(HttpCacheMiddleware)
    app.add_middleware(RequestMiddleware, slow=60)
    return app


def hostile(random: Random) -> Any:
    """Requests without end, no two the same: method, path, query, headers."""
    for number in count():
        text = f"{number}-{random.random()}"
        if number % 2:
            text += random.choice(["a" * LONG, "a" * (LONG // 12) + "%F0%9F%8D%89", "%41" * 9_000])
        path, query, headers = "/items", "", []
        match number // 2 % 10:
            case 0:
                path = f"/items/{text}"
            case 1:
                path = f"/items/{uuid4()}"
            case 2:
                query = f"cursor={uuid4()}&limit={number}"
            case 3:
                query = f"{text}=1"
            case 4:
                path, query = "/search", f"q={text}"
            case 5:
                path, headers = "/mine/x", [(b"cookie", f"session={text}".encode())]
            case 6:
                path = f"/mine/{text}"
            case 7:
                headers = [
                    (f"x-{number}".encode(), text.encode()),
                    (b"x-request-id", text.encode()),
                ]
            case 8:
                path = f"/{text}"
            case 9:
                headers = [(b"if-none-match", f'"{text}"'.encode())]
                headers.append((b"host", quote(text).encode()))
        method = random.choice(["GET"] * 8 + ["HEAD", f"M{number}"])
        yield method, path, query, headers


async def send(app: FastAPI, method: str, path: str, query: str, headers: Any) -> None:
    """As uvicorn would pass it on."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def nowhere(message: Any) -> None: ...

    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1"}
    scope |= {"method": method, "scheme": "http", "server": ("service", 80), "headers": headers}
    scope |= {"path": unquote(path), "raw_path": path.encode(), "query_string": query.encode()}
    await app(scope, receive, nowhere)


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.slow
async def test_memory_after_many_hostile_requests(another: OpenCache, redis: Redis) -> None:
    cache = await another(near_bytes=2 * MEGABYTE, near_client=redis)
    app = service(cache)
    requests = hostile(Random(1))
    for _ in range(500):  # what each process needs once
        await send(app, *next(requests))
    before = resident()
    for _ in range(REQUESTS):
        await send(app, *next(requests))
    grown = (resident() - before) / MEGABYTE
    assert grown < 20, f"{grown:.1f} MB more after {REQUESTS} requests"
    print(f"{grown:.1f} MB more after {REQUESTS} requests")
