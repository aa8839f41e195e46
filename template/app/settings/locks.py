"""Locks."""

from pydantic import Field

from app.settings.service import ServiceSettings


class LockSettings(ServiceSettings):
    """How locks use Redis."""

    lock_redis_timeout: float = Field(default=0.5, gt=0)
    """The longest wait for a connection, and for one reply."""
    lock_pool_size: int = Field(default=8, ge=3)
    """Connections per process: one listens to releases, one renews. More locks at once wait."""
