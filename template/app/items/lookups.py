"""What others ask of items besides themselves: names for many of them, and how many there are.

The route that reads an item caches its whole answer. Here, what is cached are values: those of a
function, and many at once, of which only the ones that are missing are loaded.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.core.cache import Cache
from app.items.caching import LISTS, name_policy, stock_policy
from app.items.models import Stock
from app.items.repository import ItemRepository


def create_lookups_router(cache: Cache, items: ItemRepository) -> APIRouter:
    router = APIRouter(tags=["items"])
    names = name_policy(cache)

    @stock_policy(cache).cached(tags=[LISTS])
    async def stock() -> Stock:
        return await items.stock()

    @router.get("/item-names")
    async def read_names(
        id: Annotated[list[UUID], Query(min_length=1, max_length=100)],
    ) -> dict[UUID, str]:
        """Return the names of items by id, without those that do not exist."""
        found = await names.get_or_load_many(id, items.names, tags=[LISTS])
        return {item_id: name for item_id, name in found.items() if name is not None}

    @router.get("/stock")
    async def read_stock() -> Stock:
        """Return how many items there are, for which the database has to look at all of them."""
        return await stock()

    return router
