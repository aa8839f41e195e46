"""cashews: plain, with its lock, with early refresh, with its client-side cache, with tags."""

import os

from cashews import cache
from fastapi import FastAPI
from work import REDIS_URL, TTL, VARIANT, Item, load

cache.setup(REDIS_URL, client_side=VARIANT == "near", max_connections=64)
TAGS = [f"tag-{number}" for number in range(int(os.environ.get("TAGS", "0")))]

if VARIANT == "early":
    decorate = cache.early(ttl=TTL, early_ttl=TTL * 0.7, key="item:{item_id}")
elif TAGS:
    decorate = cache(ttl=TTL, key="item:{item_id}", tags=TAGS)
else:
    decorate = cache(ttl=TTL, key="item:{item_id}", lock=VARIANT == "lock")

app = FastAPI()


@app.get("/items/{item_id}")
@decorate
async def read_item(item_id: str) -> Item:
    return await load(item_id)
