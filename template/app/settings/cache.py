"""The cache."""

from pydantic import Field

from app.settings.service import ServiceSettings


class CacheSettings(ServiceSettings):
    """How the cache reads, and what it keeps in memory."""

    cache_enabled: bool = True
    """Whether values are cached. Without, every read loads, and nothing is kept; invalidations are
    carried out all the same, so that entries are right when it is enabled again."""
    cache_warm_up: bool = True
    """Whether each process loads what `cache.keep_warm` names when it has started, and is not in
    the cache yet. It is ready meanwhile."""
    cache_read_timeout: float = Field(default=0.05, gt=0)
    """The longest a read waits for Redis before the database answers instead."""
    near_cache_bytes: int = Field(default=0, ge=0)
    """Memory for the hottest entries, in bytes; 0 switches the near cache off."""
    cache_max_loads: int = Field(default=100, ge=1)
    """How many loaders run at once in each process; the others wait in order."""
    cache_max_refreshes: int = Field(default=20, ge=1)
    """How many background refreshes run at once in each process; one more is left out."""
    cache_breaker_threshold: int = Field(default=3, ge=1)
    """After so many failures of Redis in a row it is left alone for a while."""
    cache_epoch: int = Field(default=1, ge=1)
    """A new number leaves every cached entry behind."""
