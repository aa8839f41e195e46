"""Applications with cached routes, and ways of asking them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.dependencies.utils import solve_dependencies
from pydantic import BaseModel

from app.core.cache import HttpCacheMiddleware
from devservers.waiting import HANG
from tests.core.cache.harness import until


class Item(BaseModel):
    id: int
    name: str = ""


def application(*routers: APIRouter, **options: Any) -> FastAPI:
    app = FastAPI(**options)
    for router in routers:
        app.include_router(router)
    app.add_middleware(HttpCacheMiddleware)
    return app


def asking(app: Callable[..., Any]) -> httpx2.AsyncClient:
    """A client of the application; an unhandled exception is a 500, as with a server."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://service")


def status(response: httpx2.Response) -> str:
    """How the cache says it answered: "hit", "fwd=miss" or "" where it says nothing."""
    parts = response.headers.get("cache-status", "").split("; ")
    return parts[1] if len(parts) > 1 else ""


def watch_fastapi(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths for which FastAPI itself solves dependencies from now on."""
    paths = []

    async def watched(**arguments: Any) -> Any:
        paths.append(arguments["request"].url.path)
        return await solve_dependencies(**arguments)

    monkeypatch.setattr("fastapi.routing.solve_dependencies", watched)
    return paths


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[int]:
    """A real server; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # As a loop does for sockets of its own: two small writes do not wait 40 ms for each other.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(app, log_level="critical", **options)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        await until(lambda: server.started or task.done())
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def exchange(port: int, *requests: str) -> bytes:
    """All bytes that come back for raw requests on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    closing = [*requests[:-1], requests[-1] + "Connection: close\r\n"]
    writer.write("".join(f"{request}Host: service\r\n\r\n" for request in closing).encode())
    async with asyncio.timeout(HANG):
        answer = await reader.read()
    writer.close()
    return answer
