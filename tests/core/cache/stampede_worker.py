"""One process of a service in which many callers want the same key; run by test_stampede."""

import asyncio
import json
import sys
from functools import partial
from time import monotonic
from typing import Any

from redis.asyncio import Redis

from devservers.waiting import HANG, until
from tests.core.cache.harness import Pauses, open_cache

CALLERS, LOAD_SECONDS, THROTTLE = 50, 0.2, 1.0


async def several(plain: Redis, name: str) -> bool:
    return int(await plain.llen(name)) > 1


async def run(url: str, scenario: str) -> dict[str, Any]:
    plain = Redis.from_url(url)

    async def load() -> int:
        number = await plain.rpush("loads", monotonic())
        match scenario:
            case "stale":  # nobody waits for it: the test lets it end when all have their answers
                await plain.blpop(["answered"], timeout=HANG)
            case "control":  # it does not end before another process loads, too
                await until(partial(several, plain, "loads"))
            case _:
                await asyncio.sleep(LOAD_SECONDS)
        await plain.set("loaded", monotonic())
        if scenario == "failing":
            raise OSError("the source is down")
        return number

    async with open_cache(url) as cache:
        policy = cache.policy(
            "item",
            int,
            ttl=0.1 if scenario in ("stale", "failing") else 60,
            jitter=0,
            early_refresh=0,
            loader_timeout=10 * HANG,
            error_patience=HANG,
            stale_while_revalidate=3600 if scenario == "stale" else 0,
            stale_if_error=3600,
            error_throttle=THROTTLE,
            lease_wait=0 if scenario == "control" else HANG,
        )
        if scenario in ("stale", "failing"):

            async def first() -> int:
                return 0

            await policy.get_or_load("key", first)
            await until(lambda: not cache.engine.loads)
            await asyncio.sleep(0.3)  # the last one to come finds it stale, too
        await plain.incr("ready")
        await plain.blpop(["go"], timeout=HANG)

        calls, values = 0, set()
        async with Pauses() as pauses:
            while True:
                values.update(
                    await asyncio.gather(*(policy.get_or_load("key", load) for _ in range(CALLERS)))
                )
                calls += CALLERS
                if scenario != "failing" or await several(plain, "loads"):
                    break
                await asyncio.sleep(0.02)
            answered = monotonic()
            paused = await pauses.total()
        if scenario == "stale":
            await plain.rpush("answers", 1)
            await until(lambda: not cache.engine.loads)
    await plain.aclose()
    return {"values": sorted(values), "calls": calls, "answered": answered, "paused": paused}


if __name__ == "__main__":
    for line in sys.stdin:  # one scenario after the other
        print(json.dumps(asyncio.run(run(sys.argv[1], line.strip()))), flush=True)
