"""fastapi-redis-sdk, as its README sets it up; it reads REDIS_URL itself."""

from fastapi import Depends, FastAPI
from redis_fastapi import FastAPIRedis, cache
from work import TTL, Item, load

app = FastAPI()
FastAPIRedis(app).lifespan().caching()


@app.get("/items/{item_id}", dependencies=[Depends(cache(ttl=TTL))])
async def read_item(item_id: str) -> Item:
    return await load(item_id)
