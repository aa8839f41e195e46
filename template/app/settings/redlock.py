"""Locks on a majority of independent servers."""

from pydantic import Field, SecretStr, field_validator

from app.core.redis import Topology
from app.settings.locks import LockSettings
from app.settings.redis import RedisSettings
from app.settings.service import listed


class RedlockSettings(LockSettings, RedisSettings):
    """Where these servers are."""

    redlock_urls: SecretStr = SecretStr(
        "redis://127.0.0.1:6379/0,redis://127.0.0.1:6380/0,redis://127.0.0.1:6381/0"
    )
    """3, 5 or 7 independent servers, separated by commas; none is a replica of another."""
    lock_node_timeout: float = Field(default=0.05, gt=0)
    """The longest to wait for the vote of one of them; never more than 5 % of a lock's ttl."""

    @field_validator("redlock_urls")
    @classmethod
    def _redlock_urls_are_valid(cls, urls: SecretStr) -> SecretStr:
        nodes = [cls._redis_address(url) for url in listed(urls.get_secret_value())]
        if len(nodes) not in (3, 5, 7):
            raise ValueError(f"Redlock needs 3, 5 or 7 servers, not {len(nodes)}")
        if any(node.topology is not Topology.STANDALONE for node in nodes):
            raise ValueError("Redlock needs independent servers: redis:// or rediss://")
        return urls

    @property
    def redlock_servers(self) -> list[str]:
        return listed(self.redlock_urls.get_secret_value())

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        for url in self.redlock_servers:
            found += self._unsafe_redis("REDLOCK_URLS", url)
        return found
