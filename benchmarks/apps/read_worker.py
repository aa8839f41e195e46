"""Reads of one process: redis-py's GET beside the cache's batches. Questions:

    {"read": "get" | "batched" | "hit" | "tagged hit", "readers": 64, "seconds": 0.3}

The answer is the number of reads per second.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter

import uvloop
from pydantic import BaseModel

from app.core.cache import Cache
from app.core.redis import BatchReader, ClientOptions, create_client
from app.core.serializers.json import JsonSerializer

Read = Callable[[], Awaitable[object]]


class Item(BaseModel):
    """About 1 kB as JSON."""

    id: int
    name: str
    description: str


ITEM = Item(id=1, name="lamp", description="x" * 950)


async def rate(read: Read, readers: int, seconds: float) -> float:
    done = 0
    deadline = perf_counter() + seconds

    async def reader() -> None:
        nonlocal done
        while perf_counter() < deadline:
            await read()
            done += 1

    started = perf_counter()
    await asyncio.gather(*(reader() for _ in range(readers)))
    return done / (perf_counter() - started)


async def main(url: str) -> None:
    options = ClientOptions(name="benchmark", pool_size=64, pool_timeout=30, timeout=5)
    client = create_client(url, options)
    batches = BatchReader(client, timeout=5)
    cache = Cache(client, service="benchmark", serializer=JsonSerializer(), read_timeout=5)
    policy = cache.policy("item", Item, ttl=3600)

    async def load() -> Item:
        return ITEM

    async def get() -> object:
        return await client.get("plain")

    async def batched() -> object:
        return await batches.read([b"plain"])

    async def hit() -> object:
        return await policy.get_or_load(1, load)

    async def tagged_hit() -> object:
        return await policy.get_or_load(2, load, tags=["a", "b", "c"])

    reads: dict[str, Read] = {
        "get": get,
        "batched": batched,
        "hit": hit,
        "tagged hit": tagged_hit,
    }
    async with cache:
        await client.set("plain", ITEM.model_dump_json())
        for read in reads.values():
            await rate(read, 8, 0.1)
        while line := await asyncio.to_thread(sys.stdin.readline):
            question = json.loads(line)
            found = await rate(reads[question["read"]], question["readers"], question["seconds"])
            print(json.dumps(found), flush=True)
    await client.aclose()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
