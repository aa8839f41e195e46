"""Events between services: typed, in order, and none lost on the way."""

from app.core.events.dependency import EventsDependency
from app.core.events.event import Event, Missed
from app.core.events.events import Events
from app.core.events.outbox import EventsUnavailable

__all__ = ["Event", "Events", "EventsDependency", "EventsUnavailable", "Missed"]
