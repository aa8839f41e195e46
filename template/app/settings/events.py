"""Events."""

from pydantic import Field

from app.settings.service import ServiceSettings


class EventSettings(ServiceSettings):
    """How many events are kept."""

    events_kept: int = Field(default=100_000, ge=1)
    """Events of this service that stay in Redis, for those who are behind or away."""
