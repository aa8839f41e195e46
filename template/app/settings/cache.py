"""The cache."""

from pydantic import Field

from app.settings.service import ServiceSettings


class CacheSettings(ServiceSettings):
    """How the cache reads, and what it keeps in memory."""

    cache_read_timeout: float = Field(default=0.05, gt=0)
    """The longest a read waits for Redis before the database answers instead."""
    near_cache_bytes: int = Field(default=0, ge=0)
    """Memory for the hottest entries, in bytes; 0 switches the near cache off."""
    cache_epoch: int = Field(default=1, ge=1)
    """A new number leaves every cached entry behind."""
