"""The keys that sign what is cached."""

from secrets import token_urlsafe

from pydantic import Field, SecretStr, field_validator

from app.core.secret_strength import weaknesses
from app.core.serializers.pickle import SHORTEST_KEY
from app.settings.service import ServiceSettings, listed


class SigningSettings(ServiceSettings):
    """Who may write what the service unpickles."""

    cache_signing_keys: SecretStr = Field(default_factory=lambda: SecretStr(token_urlsafe(32)))
    """Secrets that sign what is cached, separated by commas: the first signs, all are believed.

    Unset, every process makes one of its own and believes no other: refused in production."""

    @field_validator("cache_signing_keys")
    @classmethod
    def _signing_keys_are_long(cls, keys: SecretStr) -> SecretStr:
        several = listed(keys.get_secret_value())
        if not several or any(len(key) < SHORTEST_KEY for key in several):
            raise ValueError(
                f"a signing key has {SHORTEST_KEY} characters or more; this makes one: "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        return keys

    @property
    def signing_keys(self) -> list[str]:
        return listed(self.cache_signing_keys.get_secret_value())

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        if "cache_signing_keys" not in self.model_fields_set:
            found.append("CACHE_SIGNING_KEYS must be set to a secret that all replicas share")
        return found + weaknesses(
            "key", "CACHE_SIGNING_KEYS", self.signing_keys, shortest=SHORTEST_KEY
        )

    def _secrets(self) -> dict[str, list[str]]:
        return super()._secrets() | {"CACHE_SIGNING_KEYS": self.signing_keys}
