"""What all databases have that speak SQL."""

from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from app.settings.service import ServiceSettings


class SqlSettings(ServiceSettings):
    """Where the database is, and how long the service waits for it."""

    _product: ClassVar[str]
    _example: ClassVar[str]

    database_url: SecretStr
    database_pool_size: int = Field(default=10, ge=1)
    """Connections per process."""
    database_pool_timeout: float = Field(default=2.0, gt=0)
    """The longest wait for a connection to come free."""
    database_timeout: float = Field(default=5.0, gt=0)
    """The longest a whole transaction may take."""

    @field_validator("database_url")
    @classmethod
    def _database_url_is_valid(cls, url: SecretStr) -> SecretStr:
        scheme = cls._example.partition("://")[0]
        if not url.get_secret_value().startswith(f"{scheme}://"):
            raise ValueError(f"this service runs on {cls._product}: {cls._example}")
        try:
            _ = urlsplit(url.get_secret_value()).port
        except ValueError:  # without its text, which may be the password
            raise ValueError("what follows :// or @ in a database URL is not host:port") from None
        return url
