"""Events."""

from pydantic import Field

from app.settings.service import ServiceSettings


class EventSettings(ServiceSettings):
    """How many events are kept, in Redis and while it is away."""

    events_max_length: int = Field(default=100_000, ge=1)
    """Events of this service that stay in Redis, for subscribers that are behind or away."""
    events_buffer_limit: int = Field(default=10_000, ge=1)
    """Events that may wait in each process while Redis is away. Further ones are dropped, and
    subscribers are told how many."""
