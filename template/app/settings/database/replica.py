"""A replica, for databases that have some."""

from typing import Any

from pydantic import Field, SecretStr, field_validator
from sqlalchemy import URL, make_url

from app.settings.database.sql import SqlSettings


class ReplicaSettings(SqlSettings):
    """Where reads go that may be behind."""

    database_read_url: SecretStr = SecretStr("")
    """A replica of the database, in the words of `DATABASE_URL`. Unset, there is none."""
    database_read_pool_size: int = Field(default=10, ge=1)
    """Connections per process to the replica."""

    @property
    def database_read_connect_args(self) -> dict[str, Any]:
        """What the driver has to know besides the URL of the replica."""
        return self.database_connect_args

    def _urls(self) -> dict[str, URL]:
        replica = self.database_read_url.get_secret_value()
        return super()._urls() | ({"DATABASE_READ_URL": make_url(replica)} if replica else {})

    @field_validator("database_read_url")
    @classmethod
    def _database_read_url_is_valid(cls, secret: SecretStr) -> SecretStr:
        return cls._read(secret, cls._translate_words) if secret.get_secret_value() else secret

    @classmethod
    def _translate_words(cls, url: URL) -> URL:
        """As `_translate`, but for which of several hosts is meant: any of them can read."""
        return cls._translate(url)
