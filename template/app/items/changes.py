"""What happens once a change of an item is committed: whoever wants to know is told."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from uuid import UUID


class Change(StrEnum):
    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


Listener = Callable[[UUID, Change], Awaitable[None]]


class ItemChanges:
    """Tells its listeners of changes, one after the other."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    async def tell(self, item_id: UUID, change: Change) -> None:
        """To be called after the commit: nobody may hear of what is then rolled back."""
        for listener in self._listeners:
            await listener(item_id, change)
