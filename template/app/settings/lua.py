"""Locks on one Redis."""

from pydantic import SecretStr, field_validator

from app.settings.locks import LockSettings
from app.settings.redis import RedisSettings


class LuaSettings(LockSettings, RedisSettings):
    """Where this Redis is."""

    lock_redis_url: SecretStr = SecretStr("")
    """A Redis that evicts nothing; empty: that of `redis_url`, which is for a cache."""

    @field_validator("lock_redis_url")
    @classmethod
    def _lock_redis_url_is_valid(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value():
            cls._redis_address(url.get_secret_value())
        return url

    @property
    def has_lock_redis(self) -> bool:
        """Whether locks have a Redis of their own."""
        return bool(self.lock_redis_url.get_secret_value())

    @property
    def lock_url(self) -> str:
        """Where locks are: on a Redis of their own, or on the cache's."""
        return self.lock_redis_url.get_secret_value() or self.redis_url.get_secret_value()

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        return found + (
            self._unsafe_redis("LOCK_REDIS_URL", self.lock_url) if self.has_lock_redis else []
        )

    def _passwords(self) -> dict[str, str]:
        return super()._passwords() | self._password_in("LOCK_REDIS_URL", self.lock_redis_url)
