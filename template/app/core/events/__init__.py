"""Events between services: typed, in order, and none lost on the way."""

from app.core.events.dependency import EventsDependency
from app.core.events.event import Event, EventsLost
from app.core.events.events import Events
from app.core.events.publish import EventsUnavailable

__all__ = ["Event", "Events", "EventsDependency", "EventsLost", "EventsUnavailable"]
