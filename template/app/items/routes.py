"""Items over HTTP."""

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request, Response

from app.core.cache import Cache, HotCall
from app.items.caching import LISTS, item_policy, item_tag, page_policy
from app.items.changes import Change, ItemChanges
from app.items.errors import ItemNotFound, VersionConflict
from app.items.lookups import create_lookups_router
from app.items.models import Item, ItemCreate, ItemPage, ItemUpdate
from app.items.repository import ItemRepository


def create_items_router(cache: Cache, items: ItemRepository, changes: ItemChanges) -> APIRouter:
    router = APIRouter(prefix="/items", tags=["items"])

    @router.get("")
    @page_policy(cache).http(
        public=True, tags=[LISTS], second_ask=lambda cursor: cursor is not None
    )
    async def list_items(
        cursor: UUID | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> ItemPage:
        return await items.page(cursor, limit)

    @router.get("/{item_id}", responses={404: {"description": "No such item"}})
    @item_policy(cache).http(public=True, tags=lambda item_id: [item_tag(item_id)])
    async def read_item(item_id: UUID) -> Item:
        item = await items.get(item_id)
        if item is None:
            raise HTTPException(404, "no such item")
        return item

    @router.post("", status_code=201)
    async def create_item(new: ItemCreate, request: Request, response: Response) -> Item:
        item = await items.create(new)
        await changes.tell(item.id, Change.CREATED)
        # Behind a proxy that strips a prefix from paths, clients need it: see `--root-path`.
        response.headers["location"] = f"{request.scope['root_path']}/items/{item.id}"
        return item

    @router.put(
        "/{item_id}",
        responses={404: {"description": "No such item"}, 409: {"description": "Changed meanwhile"}},
    )
    async def update_item(item_id: UUID, change: ItemUpdate) -> Item:
        try:
            item = await items.update(item_id, change)
        except ItemNotFound:
            raise HTTPException(404, "no such item") from None
        except VersionConflict as conflict:
            raise HTTPException(409, f"{conflict}: read it again") from None
        await changes.tell(item_id, Change.UPDATED)
        return item

    @router.delete("/{item_id}", status_code=204, responses={404: {"description": "No such item"}})
    async def delete_item(item_id: UUID) -> None:
        if not await items.delete(item_id):
            raise HTTPException(404, "no such item")
        await changes.tell(item_id, Change.DELETED)

    async def hottest() -> AsyncIterator[HotCall]:
        """What most clients begin with: the first page, and the items on it."""
        yield list_items, {}
        for item in (await items.page(None, 20)).items:
            yield read_item, {"item_id": item.id}

    cache.keep_warm("items", hottest)

    all_routes = APIRouter()
    all_routes.include_router(router)
    all_routes.include_router(create_lookups_router(cache, items))
    return all_routes
