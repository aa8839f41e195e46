"""The same routes as a feature of a generated service, as its team would add it.

`environments.py` puts the call of `create_bench_router` into the service's `main.py`; everything
else of the service is as it was generated, middleware, metrics, health and example included.
"""

from typing import Annotated

from fastapi import APIRouter, Header, Response
from work import TTL, Item, load

from app.core.cache import Cache


async def principal(x_user: Annotated[str, Header()]) -> str:
    return x_user


def create_bench_router(cache: Cache) -> APIRouter:
    router = APIRouter()
    safe = {"stale_while_revalidate": TTL, "stale_if_error": 3600}
    public = cache.policy("public", Item, ttl=TTL, **safe)
    private = cache.policy("private", Item, ttl=TTL, **safe)
    near = cache.policy("near", Item, ttl=TTL, near_ttl=60, **safe)
    strict = cache.policy("strict", Item, ttl=TTL, early_refresh=0)
    tagged = cache.policy("tagged", Item, ttl=TTL)

    @router.get("/public/{item_id}")
    @public.http(public=True)
    async def read_public(item_id: str) -> Item:
        return await load(item_id)

    @router.get("/private/{item_id}")
    @private.http(vary_by=principal)
    async def read_private(item_id: str) -> Item:
        return await load(item_id)

    @router.get("/near/{item_id}")
    @near.http(public=True)
    async def read_near(item_id: str) -> Item:
        return await load(item_id)

    @router.get("/strict/{item_id}")
    @strict.http(public=True)
    async def read_strict(item_id: str) -> Item:
        return await load(item_id)

    @router.get("/tagged/{tags}/{item_id}")
    @tagged.http(public=True, tags=lambda tags: [f"tag-{number}" for number in range(tags)])
    async def read_tagged(tags: int, item_id: str) -> Item:
        return await load(item_id)

    bodies: dict[str, bytes] = {}

    @router.get("/static/{item_id}")
    async def read_static(item_id: str) -> Response:
        if item_id not in bodies:
            bodies[item_id] = (await load(item_id)).model_dump_json().encode()
        return Response(bodies[item_id], media_type="application/json")

    return router
