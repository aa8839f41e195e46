"""fastapi-cache2, as its README sets it up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_cache import FastAPICache
from fastapi_cache.backends.inmemory import InMemoryBackend
from fastapi_cache.backends.redis import RedisBackend
from fastapi_cache.decorator import cache
from redis.asyncio import from_url
from work import REDIS_URL, TTL, VARIANT, Item, load


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    memory = VARIANT == "memory"
    FastAPICache.init(
        InMemoryBackend() if memory else RedisBackend(from_url(REDIS_URL)), prefix="b"
    )
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/items/{item_id}")
@cache(expire=TTL)
async def read_item(item_id: str) -> Item:
    return await load(item_id)
