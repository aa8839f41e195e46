"""aiocache: its decorator, or the one against stampedes."""

from urllib.parse import urlsplit

from aiocache import Cache, cached, cached_stampede
from aiocache.serializers import PickleSerializer
from fastapi import FastAPI
from work import REDIS_URL, TTL, VARIANT, Item, load

server = urlsplit(REDIS_URL)
options = {
    "ttl": TTL,
    "cache": Cache.REDIS,
    "endpoint": server.hostname,
    "port": server.port,
    "serializer": PickleSerializer(),  # the only one that keeps a model a model
    "key_builder": lambda function, item_id: f"item:{item_id}",
}
decorate = cached_stampede(lease=2, **options) if VARIANT == "stampede" else cached(**options)

app = FastAPI()


@app.get("/items/{item_id}")
@decorate
async def read_item(item_id: str) -> Item:
    return await load(item_id)
