"""fastapi-alcazaba, signed as in its README, with its lock across processes."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_alcazaba import FastAPICache
from fastapi_alcazaba.backends.redis import RedisBackend
from fastapi_alcazaba.backends.tiered import TieredBackend
from fastapi_alcazaba.decorator import cache
from redis.asyncio import from_url
from work import REDIS_URL, TTL, VARIANT, Item, load

TAGS = [f"tag-{number}" for number in range(int(os.environ.get("TAGS", "0")))] or None


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    redis = from_url(REDIS_URL)
    backend = RedisBackend(redis)
    FastAPICache.init(
        TieredBackend(backend, local_ttl=60) if VARIANT == "near" else backend,
        prefix="b",
        signing_key="0123456789abcdef0123456789abcdef",
        distributed_lock=True,
    )
    yield
    await redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/items/{item_id}")
@cache(expire=TTL, vary_headers=(), tags=TAGS)
async def read_item(item_id: str) -> Item:
    return await load(item_id)
