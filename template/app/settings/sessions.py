"""Sessions."""

from typing import Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from app.core.browser import check_origins
from app.core.secret_strength import weaknesses
from app.core.sessions.keyring import DEVELOPMENT_SECRET, KeyRing
from app.settings.browser import BrowserSettings
from app.settings.redis import RedisSettings
from app.settings.service import listed

_YEAR = 31_536_000  # seconds; browsers keep no cookie for much longer


class SessionSettings(RedisSettings, BrowserSettings):
    """Where sessions are, what encrypts them, and when they end."""

    session_keys: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Secrets, separated by commas: the first one encrypts, all of them decrypt. Make one with
    `openssl rand -base64 32`."""
    session_redis_url: SecretStr = SecretStr("")
    """A Redis that evicts nothing. Empty: that of `redis_url`, which is meant for a cache."""
    session_pool_size: int = Field(default=16, ge=1)
    """Connections per process."""
    session_idle_timeout: float = Field(default=3600.0, ge=1, le=_YEAR)
    """Seconds without a request after which a session ends."""
    session_absolute_timeout: float = Field(default=43_200.0, ge=1, le=_YEAR)
    """Seconds after the login at which a session ends in any case."""
    session_trusted_origins: str = ""
    """Other origins whose pages may write, separated by commas: https://app.example."""
    cors_credentials: bool = False
    """Let pages of `cors_origins` act for who is logged in: read with the cookie, and write."""

    @field_validator("session_redis_url")
    @classmethod
    def _session_redis_url_is_valid(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value():
            cls._redis_address(url.get_secret_value())
        return url

    @field_validator("session_keys")
    @classmethod
    def _session_keys_are_valid(cls, keys: SecretStr) -> SecretStr:
        KeyRing(listed(keys.get_secret_value()))
        return keys

    @field_validator("session_trusted_origins")
    @classmethod
    def _session_origins_are_valid(cls, origins: str) -> str:
        check_origins(listed(origins))
        return origins

    @field_validator("session_absolute_timeout")
    @classmethod
    def _session_timeouts_fit(cls, seconds: float, info: ValidationInfo) -> float:
        if seconds < info.data.get("session_idle_timeout", 0):
            raise ValueError("is shorter than SESSION_IDLE_TIMEOUT")
        return seconds

    @model_validator(mode="after")
    def _credentials_are_for_named_origins(self) -> Self:
        if self.cors_credentials and "*" in self.cors_origin_list:
            raise ValueError(
                "CORS_CREDENTIALS lets pages act for who is logged in, and CORS_ORIGINS=* has all "
                "pages there are: name the origins of yours"
            )
        if self.cors_credentials and not self.cors_origin_list:
            raise ValueError("CORS_CREDENTIALS is for pages of CORS_ORIGINS: name their origins")
        return self

    @property
    def has_cors_credentials(self) -> bool:
        return self.cors_credentials

    @property
    def has_session_redis(self) -> bool:
        """Whether sessions have a Redis of their own."""
        return bool(self.session_redis_url.get_secret_value())

    @property
    def session_url(self) -> str:
        """Where sessions are: on a Redis of their own, or on the cache's."""
        return self.session_redis_url.get_secret_value() or self.redis_url.get_secret_value()

    @property
    def session_key_ring(self) -> list[str]:
        return listed(self.session_keys.get_secret_value())

    @property
    def session_origins(self) -> list[str]:
        more = self.cors_origin_list if self.cors_credentials else []
        return [*listed(self.session_trusted_origins), *more]

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        if self.has_session_redis:
            found += self._unsafe_redis("SESSION_REDIS_URL", self.session_url)
        for name, origins in (
            ("SESSION_TRUSTED_ORIGINS", listed(self.session_trusted_origins)),
            ("CORS_ORIGINS", self.cors_origin_list if self.cors_credentials else []),
        ):
            if any(origin.startswith("http://") for origin in origins):
                found.append(f"{name} needs https://: others can write such pages")
        return found + weaknesses("key", "SESSION_KEYS", self.session_key_ring)

    def _passwords(self) -> dict[str, str]:
        own = self._password_in("SESSION_REDIS_URL", self.session_redis_url)
        return super()._passwords() | own

    def _secrets(self) -> dict[str, list[str]]:
        return super()._secrets() | {"SESSION_KEYS": self.session_key_ring}
