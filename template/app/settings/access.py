"""Access control: who the service is in Redis, and whose tokens it accepts."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from app.core.access import DEVELOPMENT_SECRET, RedisCredentials
from app.core.access.tokens import ASYMMETRIC
from app.core.redis import RedisAddress, with_login
from app.core.secret_strength import weaknesses
from app.settings.redis import RedisSettings
from app.settings.service import listed

# Purposes that are not called like their role.
_ROLES = {"commands": "service", "near": "cache"}

Claim = Annotated[str, Field(min_length=1)]


class AccessSettings(RedisSettings):
    """Every role has a login of its own in Redis, so the URLs have none."""

    access_secrets: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Secrets, separated by commas, from which the passwords in Redis follow. The first one logs
    in, and the ACL file accepts all. Make one with `openssl rand -base64 32`."""
    access_jwks: str = ""
    """Where the issuer of tokens has its public keys: https://..., or a file (JWKS). Empty: tokens
    are those of `python -m app.access token`, in development only."""
    access_issuer: Claim = "development"
    """The `iss` that tokens must have."""
    access_audience: Claim  # its default is in __init__.py
    access_algorithms: str = "RS256,ES256"
    """The algorithms with which tokens may be signed, separated by commas."""
    access_leeway: float = Field(default=30.0, ge=0, le=300)
    """Seconds by which the issuer's clock may differ from ours."""
    access_pool_size: int = Field(default=8, ge=1)
    """Connections per process and role."""
    access_audit_interval: float = Field(default=15.0, gt=0)
    """Seconds between two polls of Redis's log for denials."""

    @field_validator("access_secrets")
    @classmethod
    def _access_secrets_are_valid(cls, secrets: SecretStr) -> SecretStr:
        RedisCredentials("any", listed(secrets.get_secret_value()))
        return secrets

    @field_validator("access_algorithms")
    @classmethod
    def _access_algorithms_are_valid(cls, algorithms: str) -> str:
        if not (named := listed(algorithms)) or not ASYMMETRIC.issuperset(named):
            raise ValueError(f"may have {', '.join(sorted(ASYMMETRIC))}, and needs one")
        return algorithms

    @field_validator("access_jwks")
    @classmethod
    def _access_jwks_is_valid(cls, place: str) -> str:
        if "://" in place and not place.startswith(("https://", "http://")):
            raise ValueError("is a URL (https://...) or the path of a file")
        return place

    @classmethod
    def _redis_address(cls, url: str) -> RedisAddress:
        address = super()._redis_address(url)
        if address.username or address.password:
            raise ValueError("has a login, but every role has its own: leave it out")
        return address

    @property
    def redis_credentials(self) -> RedisCredentials:
        """The users of the service in Redis, and their passwords."""
        return RedisCredentials(self.service_name, self._access_secrets)

    @property
    def _access_secrets(self) -> list[str]:
        return listed(self.access_secrets.get_secret_value())

    @property
    def token_algorithms(self) -> list[str]:
        return listed(self.access_algorithms)

    def redis_login(self, url: str, purpose: str) -> str:
        """Return the URL with the login of the role that `access.toml` has for a purpose."""
        return self.as_role(url, self.role_of(purpose))

    @staticmethod
    def role_of(purpose: str) -> str:
        """Return the role for which clients of this purpose log in."""
        return _ROLES.get(purpose, purpose)

    def as_role(self, url: str, role: str) -> str:
        """The servers of a URL, with the login of a role."""
        return with_login(
            url, self.redis_credentials.user(role), self.redis_credentials.password(role)
        )

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        found += weaknesses("secret", "ACCESS_SECRETS", self._access_secrets)
        if not self.access_jwks:
            found.append("ACCESS_JWKS needs the address of your issuer's keys")
        if self.access_issuer == "development":
            found.append("ACCESS_ISSUER needs the `iss` of your issuer")
        host = urlsplit(self.access_jwks).hostname or ""
        if self.access_jwks.startswith("http://") and not self._is_trusted(host):
            found.append(
                "ACCESS_JWKS needs https://, or its host in PRIVATE_HOSTS if the network in "
                "between is yours"
            )
        return found

    def _secrets(self) -> dict[str, list[str]]:
        return super()._secrets() | {"ACCESS_SECRETS": self._access_secrets}

    def _unsafe_login(self, name: str, redis: RedisAddress) -> list[str]:
        return []  # none is in the URL, and the secrets above are checked
