"""Events."""

from app.core.events import Events, EventsUnavailable
from app.core.service import Service
from app.settings.events import EventSettings


def install_events(service: Service, settings: EventSettings) -> Events:
    """Install events on the Redis of the service."""
    events = Events(
        service.redis("events", keeps=["events"]),
        service=service.name,
        max_length=settings.events_max_length,
        buffer_limit=settings.events_buffer_limit,
        transient=service.is_transient,
    )
    # Its handlers use all other parts, from its start to its end.
    service.open(events, last=True)
    service.transient(EventsUnavailable)
    service.check("events", events.check, probe=events.probe)
    return events
