"""What other services may want to know of things."""

from uuid import UUID

from app.core.events import Event


class ThingChanged(Event, name="thing.changed"):
    """It was created, changed or deleted: whoever has it should read it again."""

    thing_id: UUID
