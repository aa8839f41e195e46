"""What most people write first: one GET in the route, the stored JSON goes out as it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response
from redis.asyncio import BlockingConnectionPool, Redis
from work import REDIS_URL, TTL, load

redis = Redis(connection_pool=BlockingConnectionPool.from_url(REDIS_URL, max_connections=64))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/items/{item_id}")
async def read_item(item_id: str) -> Response:
    body = await redis.get(f"item:{item_id}")
    if body is None:
        body = (await load(item_id)).model_dump_json().encode()
        await redis.set(f"item:{item_id}", body, ex=TTL)
    return Response(body, media_type="application/json")
