"""One process of a service that reads a popular entry; run by test_orphans."""

import asyncio
import os
import sys

from redis.asyncio import Redis

from tests.core.cache.harness import open_cache

CALLERS, LOAD_SECONDS = 20, 0.1


async def run(url: str) -> None:
    plain = Redis.from_url(url)

    async def load() -> int:
        number = int(await plain.rpush("loaders", os.getpid()))
        await asyncio.sleep(LOAD_SECONDS if number > 1 else 3600)
        return number

    async with open_cache(url) as cache:
        policy = cache.policy("item", int, ttl=3600, loader_timeout=600)

        async def call() -> None:
            await policy.get_or_load("key", load)

        await plain.rpush("ready", os.getpid())
        await plain.blpop(["go"])
        await asyncio.gather(*(call() for _ in range(CALLERS)))
        await plain.rpush("answered", os.getpid())
        await plain.blpop(["end"])
    await plain.aclose()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
