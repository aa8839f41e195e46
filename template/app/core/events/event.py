"""What an event is: a name, and the data that a pydantic model describes."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Event(BaseModel):
    """Something that has happened. Its data is read by services of other teams and versions.

        class ItemUpdated(Event, name="item.updated"):
            item_id: UUID

    Fields that the model of a subscriber lacks are left out, so a publisher may add some at any
    time. Whoever takes one away or changes its meaning gives the event a new name, and publishes
    both until nobody listens to the old one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    event_name: ClassVar[str] = ""

    def __init_subclass__(cls, name: str = "", **config: Any) -> None:
        super().__init_subclass__(**config)
        if name:
            cls.event_name = name


class Missed(Event, name="missed"):
    """Events of a publisher are gone for good.

    The stream was cut before they were read, its server forgot them, or their publisher had no room
    for them while Redis was away. You do not publish it; those who subscribe to it are handed it,
    where the events would have come. A cache clears what depends on the publisher then.
    """

    count: int | None
    """How many there were, if that can be known."""
