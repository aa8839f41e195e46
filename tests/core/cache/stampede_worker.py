"""One process of a service in which many callers want the same key; run by test_stampede."""

import asyncio
import json
import sys
from time import monotonic
from typing import Any

from redis.asyncio import Redis

from tests.core.cache.harness import open_cache

CALLERS, LOAD_SECONDS = 50, 0.2


async def run(url: str, scenario: str) -> dict[str, Any]:
    plain = Redis.from_url(url)

    async def load() -> int:
        number = int(await plain.incr("loads"))
        await asyncio.sleep(LOAD_SECONDS)
        if scenario == "failing":
            raise OSError("the source is down")
        return number

    async with open_cache(url) as cache:
        policy = cache.policy(
            "item",
            int,
            ttl=0.3 if scenario in ("stale", "failing") else 60,
            jitter=0,
            early_refresh=0,
            stale_while_revalidate=60 if scenario == "stale" else 0,
            stale_if_error=60,
            error_throttle=1,
            lease_wait=0 if scenario == "control" else 3,
        )
        if scenario in ("stale", "failing"):

            async def first() -> int:
                return 0

            await policy.get_or_load("key", first)
            await asyncio.sleep(0.8)  # the last one to come finds it stale, too
        await plain.incr("ready")
        await plain.blpop(["go"], timeout=30)

        waits: list[float] = []
        values: set[int] = set()

        async def call() -> None:
            started = monotonic()
            values.add(await policy.get_or_load("key", load))
            waits.append(monotonic() - started)

        end = monotonic() + (2.5 if scenario == "failing" else 0)
        while True:
            await asyncio.gather(*(call() for _ in range(CALLERS)))
            if monotonic() >= end:
                break
            await asyncio.sleep(0.02)
    await plain.aclose()
    return {"values": sorted(values), "longest": max(waits), "calls": len(waits)}


if __name__ == "__main__":
    for line in sys.stdin:  # one scenario after the other
        print(json.dumps(asyncio.run(run(sys.argv[1], line.strip()))), flush=True)
