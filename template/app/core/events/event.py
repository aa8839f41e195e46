"""What an event is: a name, and the data that a pydantic model describes."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Event(BaseModel):
    """Something that has happened. Its data is read by services of other teams and versions.

        class ItemUpdated(Event, name="item.updated"):
            item_id: UUID

    Fields that a subscriber's model lacks are ignored, so a publisher may add fields at any time.
    If you remove a field or change its meaning, give the event a new name, and publish both until
    nobody subscribes to the old one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    event_name: ClassVar[str] = ""

    def __init_subclass__(cls, name: str = "", **config: Any) -> None:
        super().__init_subclass__(**config)
        if name:
            cls.event_name = name


class EventsLost(Event, name="events.lost"):
    """Events of a publisher are gone for good.

    The stream was trimmed before they were read, its server forgot them, or their publisher had no
    room for them while Redis was away. Nobody publishes this event: a subscriber to it receives it
    in the place of the lost events. A cache, for instance, then drops what depends on the
    publisher.
    """

    count: int | None
    """How many events were lost; None if nobody can know."""
