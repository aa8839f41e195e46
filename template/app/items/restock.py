"""A critical section, done right: the lock saves work, the fence keeps the write safe.

Restocking reads, decides and writes, and two at once would lose one of the two. The lock lets one
in at a time. But a holder may sleep through its ttl, in a pause of its machine or of its network,
and wake up when the next one is at work. So the row keeps the fence, a number that grows with every
grant: a holder claims the row with its fence before it reads, and writes only if the fence is still
its own. An earlier holder can then neither claim nor write.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, HTTPException

from app.core.locks import LockLost, LocksDependency, LockTimeout, LockUnavailable
from app.items.changes import Change, ItemChanges
from app.items.errors import ItemNotFound
from app.items.models import JSON_INTEGER, MAX_QUANTITY, Item
from app.items.repository import ItemRepository


def create_restock_router(items: ItemRepository, changes: ItemChanges) -> APIRouter:
    router = APIRouter(prefix="/items", tags=["items"])

    @router.post(
        "/{item_id}/restock",
        responses={404: {"description": "No such item"}, 409: {"description": "Busy"}},
    )
    async def restock_item(
        item_id: UUID,
        amount: Annotated[int, Body(ge=1, le=MAX_QUANTITY, embed=True), JSON_INTEGER],
        locks: LocksDependency,
    ) -> Item:
        try:
            async with locks.hold(f"item:{item_id}", ttl=10, timeout=5) as lease:
                item = await items.claim(item_id, fence=lease.fence)
                if item is not None:
                    quantity = item.quantity + amount
                    if quantity > MAX_QUANTITY:
                        raise HTTPException(409, f"there is room for {MAX_QUANTITY} of an item")
                    item = await items.set_quantity(item_id, quantity, fence=lease.fence)
        except ItemNotFound:
            raise HTTPException(404, "no such item") from None
        except LockLost:
            # The write may have got through all the same.
            await changes.tell(item_id, Change.UPDATED)
            raise
        except LockUnavailable:
            raise  # that is no conflict, and answered with 503
        except LockTimeout:
            raise HTTPException(409, "the item is being restocked: try again") from None
        if item is None:
            raise HTTPException(409, "somebody else restocked the item meanwhile: try again")
        await changes.tell(item_id, Change.UPDATED)
        return item

    return router
