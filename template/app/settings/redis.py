"""Redis: redis://, rediss:// (TLS), redis+sentinel://, redis+cluster://."""

from pydantic import Field, SecretStr, field_validator

from app.core.redis import RedisAddress, Topology, parse_url
from app.core.secret_strength import is_default_password
from app.settings.service import ServiceSettings, is_local


class RedisSettings(ServiceSettings):
    """Where Redis is, and how long the service waits for it."""

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """The servers, and how they are reached: redis://, rediss:// (TLS), redis+sentinel://host/name,
    redis+cluster://host."""
    redis_timeout: float = Field(default=0.2, gt=0)
    """The longest wait for a connection, and for one reply."""
    redis_pool_size: int = Field(default=32, ge=1)
    """Connections per process and purpose (the cache, your own commands)."""
    redis_pool_timeout: float = Field(default=0.2, gt=0)
    """The longest wait for a connection to come free."""

    @field_validator("redis_url")
    @classmethod
    def _redis_url_is_valid(cls, url: SecretStr) -> SecretStr:
        cls._redis_address(url.get_secret_value())
        return url

    @classmethod
    def _redis_address(cls, url: str) -> RedisAddress:
        """The servers of a URL; a part that allows fewer URLs extends it.

        Raises:
            ValueError: a setting may not have this URL.
        """
        return parse_url(url)

    def redis_login(self, url: str, purpose: str) -> str:
        """Return a URL with the login for a purpose; a part that has logins elsewhere overrides it.

        Args:
            url: of a Redis that a setting names.
            purpose: what a client is for: "commands", "cache", "locks", ...
        """
        return url

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        return found + self._unsafe_redis("REDIS_URL", self.redis_url.get_secret_value())

    def _passwords(self) -> dict[str, str]:
        return super()._passwords() | self._password_in("REDIS_URL", self.redis_url)

    @staticmethod
    def _password_in(name: str, url: SecretStr) -> dict[str, str]:
        """The password of a Redis that the setting `name` has, if there is one."""
        text = url.get_secret_value()
        password = parse_url(text).password if text else None
        return {} if password is None else {name: password}

    def _unsafe_redis(self, name: str, url: str) -> list[str]:
        """What production refuses of a Redis that the setting `name` has."""
        redis = parse_url(url)
        found = self._unsafe_login(name, redis)
        if is_default_password(redis.options.get("sentinel_password", "")):
            found.append(f"{name} needs a sentinel_password that is not a default")
        if not redis.tls and not all(self._is_private(host) for host in _beyond(redis)):
            elsewhere = "" if redis.topology is Topology.STANDALONE else _ELSEWHERE
            found.append(
                f"{name} needs TLS (rediss), or its host in PRIVATE_HOSTS if the network in "
                f"between is yours{elsewhere}"
            )
        return found

    def _unsafe_login(self, name: str, redis: RedisAddress) -> list[str]:
        """What it refuses of the login; a part that has logins elsewhere overrides it."""
        if redis.password and is_default_password(redis.password, username=redis.username):
            return [f"{name} needs a password that is not a default: rediss://user:password@host"]
        if redis.password or not _beyond(redis):
            return []
        return [f"{name} needs a password: rediss://user:password@host"]


_ELSEWHERE = "; also on this host, for it names servers that may be elsewhere"


def _beyond(redis: RedisAddress) -> list[str]:
    """The hosts behind which traffic may leave this one: sentinels and the nodes of a cluster name
    others, wherever they are themselves."""
    names_others = redis.topology is not Topology.STANDALONE
    return [host for host, _ in redis.nodes if names_others or not is_local(host)]
