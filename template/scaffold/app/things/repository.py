"""What routes ask of whatever keeps the things."""

from typing import Protocol
from uuid import UUID

from scaffold.app.things.models import Thing, ThingCreate, ThingPage, ThingUpdate


class VersionConflict(Exception):
    """Somebody else has changed it first."""


class ThingRepository(Protocol):
    """Reads and changes things.

    Each method takes effect as a whole or not at all.
    Every method raises DatabaseUnavailable when the database does not answer. A change may have
    been made then.
    """

    async def get(self, thing_id: UUID) -> Thing | None: ...

    async def page(self, after: UUID | None, limit: int) -> ThingPage:
        """Return the next things by id, `limit` at most."""
        ...

    async def create(self, new: ThingCreate) -> Thing: ...

    async def update(self, thing_id: UUID, change: ThingUpdate) -> Thing | None:
        """Change what is still as the client saw it; None if there is nothing.

        Raises:
            VersionConflict: it was changed meanwhile.
        """
        ...

    async def delete(self, thing_id: UUID) -> bool:
        """Return whether there was one."""
        ...
