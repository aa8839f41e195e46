"""Things over HTTP."""

from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request, Response

from app.core.cache import Cache
from scaffold.app.things.caching import PAGES, page_policy, thing_policy, thing_tag
from scaffold.app.things.models import Thing, ThingCreate, ThingPage, ThingUpdate
from scaffold.app.things.repository import ThingRepository, VersionConflict

_PATH = "/things"


def create_things_router(
    cache: Cache, things: ThingRepository, changed: Callable[[UUID], Awaitable[None]]
) -> APIRouter:
    """Make the routes; `changed` is told of each change once it is committed."""
    router = APIRouter(prefix=_PATH, tags=["things"])

    @router.get("")
    @page_policy(cache).http(
        public=True, tags=[PAGES], second_ask=lambda cursor: cursor is not None
    )
    async def list_things(
        cursor: UUID | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> ThingPage:
        return await things.page(cursor, limit)

    @router.get("/{thing_id}", responses={404: {"description": "Not found"}})
    @thing_policy(cache).http(public=True, tags=lambda thing_id: [thing_tag(thing_id)])
    async def read_thing(thing_id: UUID) -> Thing:
        thing = await things.get(thing_id)
        if thing is None:
            raise HTTPException(404, "there is none with this id")
        return thing

    @router.post("", status_code=201)
    async def create_thing(new: ThingCreate, request: Request, response: Response) -> Thing:
        thing = await things.create(new)
        await changed(thing.id)
        # Behind a proxy that strips a prefix from paths, clients need it: see `--root-path`.
        response.headers["location"] = f"{request.scope['root_path']}{_PATH}/{thing.id}"
        return thing

    @router.put(
        "/{thing_id}",
        responses={404: {"description": "Not found"}, 409: {"description": "Changed meanwhile"}},
    )
    async def update_thing(thing_id: UUID, change: ThingUpdate) -> Thing:
        try:
            thing = await things.update(thing_id, change)
        except VersionConflict:
            raise HTTPException(409, "it was changed meanwhile: read it again") from None
        if thing is None:
            raise HTTPException(404, "there is none with this id")
        await changed(thing_id)
        return thing

    @router.delete("/{thing_id}", status_code=204, responses={404: {"description": "Not found"}})
    async def delete_thing(thing_id: UUID) -> None:
        if not await things.delete(thing_id):
            raise HTTPException(404, "there is none with this id")
        await changed(thing_id)

    return router
