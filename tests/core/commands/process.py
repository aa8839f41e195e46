"""`python -m tests.core.commands.process PACKAGE NAME`: a command of a service of its own.

The service has a cache, and three entries that are to be kept warm. Each load says in Redis which
process it is of, and waits for the test to let it go on.
"""

import importlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from app.core.cache import Cache, HotCall
from app.core.commands import main
from app.core.serializers.json import JsonSerializer
from app.core.service import Service
from app.settings.cache import CacheSettings
from app.settings.redis import RedisSettings
from app.wiring.cache import install_cache
from app.wiring.service import make_service
from devservers.waiting import HANG, until

STARTED, LOADS, GO_ON = "started", "loads", "go-on"
HOT = 3


class Settings(CacheSettings, RedisSettings):
    service_name: str = "test"


def install_numbers(service: Service, cache: Cache) -> None:
    """Numbers, of which the first ones are hot."""
    redis = service.redis("numbers")
    assert isinstance(redis, Redis)
    policy = cache.policy("number", int, ttl=60, loader_timeout=HANG)

    @policy.cached()
    async def load(number: int) -> int:
        await redis.rpush(LOADS, f"{os.getpid()} {number}")

        async def may_go_on() -> bool:
            return bool(await redis.exists(GO_ON))

        await until(may_go_on)
        return number

    async def hot() -> AsyncIterator[HotCall]:
        for number in range(HOT):
            yield load, {"number": number}

    cache.keep_warm("numbers", hot)


@asynccontextmanager
async def telling(service: Service) -> AsyncIterator[None]:
    redis = service.redis("started")
    assert isinstance(redis, Redis)
    await redis.rpush(STARTED, os.getpid())
    try:
        yield
    finally:
        print("closed", file=sys.stderr)


def make() -> Service:
    patience = {"redis_timeout": HANG, "redis_pool_timeout": HANG, "cache_read_timeout": HANG}
    settings = Settings.model_validate({"redis_url": os.environ["REDIS_URL"], **patience})
    service = make_service(settings)
    service.open(telling(service))
    cache = install_cache(service, settings, JsonSerializer())
    service.share(cache=cache)
    install_numbers(service, cache)
    return service


if __name__ == "__main__":
    sys.exit(main(importlib.import_module(sys.argv[1]), make, sys.argv[2:]))
