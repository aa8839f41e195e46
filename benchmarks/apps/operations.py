"""CPU of one process for each thing that a request does with the cache or a lock: in microseconds.

    python operations.py URL

The answer is one JSON document, by name of the operation. `app.core` is that of PYTHONPATH.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Header
from pydantic import BaseModel

from app.core.application import Application
from app.core.cache import Cache, HttpCacheMiddleware
from app.core.locks import Locks
from app.core.locks.node import Node
from app.core.observability.requests import RequestMiddleware
from app.core.redis import BatchReader, ClientOptions, create_client
from app.core.serializers.json import JsonSerializer

PATIENCE = 10.0
"""Seconds that Redis may take: it is not what is measured."""
ROUNDS = 3
IDS = [uuid4() for _ in range(20)]


class Item(BaseModel):
    id: UUID
    name: str


Operation = tuple[Callable[[int], Awaitable[object]], int, int]
"""What is done with a number that never repeats, how many at once, and how often."""


def application(cache: Cache) -> Application:
    router = APIRouter()

    def item_tag(item_id: UUID) -> list[str]:
        return [f"item:{item_id}"]

    async def who(x_user: Annotated[str, Header()]) -> str:
        return x_user

    @router.get("/near/{item_id}")
    @cache.policy("near", Item, ttl=600, near_ttl=600).http(public=True, tags=item_tag)
    async def near(item_id: UUID) -> Item:
        return Item(id=item_id, name="x" * 100)

    @router.get("/public/{item_id}")
    @cache.policy("public", Item, ttl=600).http(public=True, tags=item_tag)
    async def public(item_id: UUID) -> Item:
        return Item(id=item_id, name="x" * 100)

    @router.get("/private/{item_id}")
    @cache.policy("private", Item, ttl=600).http(vary_by=who)
    async def private(item_id: UUID) -> Item:
        return Item(id=item_id, name="x" * 100)

    app = Application()
    app.include_router(router)
    app.add_middleware(HttpCacheMiddleware)
    app.add_middleware(RequestMiddleware, slow=1.0)
    return app


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    pass


async def get(app: Application, path: str) -> None:
    headers = [(b"host", b"service"), (b"user-agent", b"curl/8.0"), (b"x-user", b"ann")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "server": ("service", 80),
        "client": ("127.0.0.1", 1),
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
    }
    await app(scope, receive, send)  # type: ignore[arg-type]  # what servers send


async def measured(work: Callable[[int], Awaitable[object]], at_once: int, times: int) -> float:
    """Return the least of some rounds: what is above it is somebody else's."""
    number = count()
    await work(next(number))
    found = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(times // at_once):
            if at_once == 1:
                await work(next(number))
            else:
                await asyncio.gather(*(work(next(number)) for _ in range(at_once)))
        found.append((time.process_time() - started) / times * 1e6)
        gc.collect()
    return min(found)


async def main(url: str) -> None:
    def options(name: str) -> ClientOptions:
        return ClientOptions(
            name=name, timeout=PATIENCE, connect_timeout=PATIENCE, pool_timeout=PATIENCE
        )

    client, near, for_locks = (create_client(url, options(name)) for name in ("b", "near", "locks"))
    cache = Cache(
        client,
        service=f"operations-{uuid4().hex}",
        serializer=JsonSerializer(),
        read_timeout=PATIENCE,
        near_bytes=10_000_000,
        near_client=near,
    )
    locks = Locks(Node(for_locks, timeout=PATIENCE), prefix=uuid4().hex, quarantine=0)
    app = application(cache)
    policy = cache.policy("plain", Item, ttl=600)
    reader = BatchReader(client, timeout=PATIENCE)

    async def load() -> Item:
        return Item(id=IDS[0], name="y")

    async def lock(number: int) -> None:
        async with locks.hold(f"lock-{number}", ttl=10, timeout=PATIENCE):
            pass

    def route(name: str) -> Callable[[int], Awaitable[object]]:
        return lambda number: get(app, f"/{name}/{IDS[number % len(IDS)]}")

    def hit(number: int) -> Awaitable[object]:
        return policy.get_or_load(number % len(IDS), load)

    def miss(number: int) -> Awaitable[object]:
        return policy.get_or_load(uuid4(), load)

    def missed_route(number: int) -> Awaitable[object]:
        return get(app, f"/public/{uuid4()}")

    def read(number: int) -> Awaitable[object]:
        return reader.read([b"key-%d" % number])

    def invalidation(number: int) -> Awaitable[object]:
        return policy.invalidate(number)

    operations: dict[str, Operation] = {
        "near hit of a route": (route("near"), 64, 1024),
        "hit of a public route, 64": (route("public"), 64, 640),
        "hit of a public route, alone": (route("public"), 1, 150),
        "hit of a private route, 64": (route("private"), 64, 320),
        "hit of a policy, 64": (hit, 64, 640),
        "hit of a policy, alone": (hit, 1, 150),
        "miss of a policy, 64": (miss, 64, 128),
        "miss of a policy, alone": (miss, 1, 60),
        "miss of a route, 64": (missed_route, 64, 128),
        "miss of a route, alone": (missed_route, 1, 60),
        "read of a key, 64": (read, 64, 640),
        "read of a key, alone": (read, 1, 150),
        "invalidation, 64": (invalidation, 64, 192),
        "invalidation, alone": (invalidation, 1, 60),
        "lock, 64": (lock, 64, 128),
        "lock, alone": (lock, 1, 60),
    }
    found = {}
    async with cache, locks:
        for name in "near", "public", "private":
            await asyncio.gather(*(route(name)(number) for number in range(len(IDS))))
        gc.disable()
        for operation, (work, at_once, times) in operations.items():
            found[operation] = await measured(work, at_once, times)
    for one in client, near, for_locks:
        await one.aclose()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
