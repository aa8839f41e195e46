"""What the rest of the feature asks of whatever keeps the items.

`install.py` gives it the implementation that suits the database.
"""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from app.items.models import Item, ItemCreate, ItemPage, ItemUpdate, Stock


class ItemRepository(Protocol):
    """Reads and changes items; each method takes effect as a whole or not at all.

    Every method raises DatabaseUnavailable when the database does not answer. A change may have
    been made then.
    """

    async def get(self, item_id: UUID) -> Item | None: ...

    async def page(self, after: UUID | None, limit: int) -> ItemPage:
        """The next items by id, `limit` at most. Changes elsewhere neither repeat nor skip one."""
        ...

    async def names(self, item_ids: Sequence[UUID]) -> dict[UUID, str]:
        """The names of these items, without those that do not exist."""
        ...

    async def stock(self) -> Stock: ...

    async def create(self, new: ItemCreate) -> Item: ...

    async def update(self, item_id: UUID, change: ItemUpdate) -> Item:
        """Change an item that is still as the client saw it.

        Raises:
            ItemNotFound: it does not exist.
            VersionConflict: it was changed meanwhile.
        """
        ...

    async def claim(self, item_id: UUID, *, fence: int) -> Item | None:
        """The item, to be changed by the holder of its lock; None if a later holder claimed it.

        From now on no earlier holder can write what it made of the item as it was before.

        Raises:
            ItemNotFound: it does not exist.
        """
        ...

    async def set_quantity(self, item_id: UUID, quantity: int, *, fence: int) -> Item | None:
        """Write as the holder that claimed the item; None if a later one did meanwhile.

        Raises:
            ItemNotFound: it does not exist.
        """
        ...

    async def delete(self, item_id: UUID) -> bool:
        """Whether there was one."""
        ...
