"""fastapi-cachex on Redis, with concurrent misses put together."""

from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi_cachex import BackendProxy, cache
from fastapi_cachex.backends import AsyncRedisCacheBackend
from work import REDIS_URL, TTL, Item, load

server = urlsplit(REDIS_URL)
BackendProxy.set(AsyncRedisCacheBackend(host=server.hostname or "", port=server.port or 0))

app = FastAPI()


@app.get("/items/{item_id}")
@cache(ttl=TTL, public=True, coalesce=True)
async def read_item(item_id: str) -> Item:
    return await load(item_id)
