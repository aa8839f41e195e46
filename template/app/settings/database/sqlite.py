"""SQLite."""

from pydantic import SecretStr, field_validator

from app.settings.database.sql import SqlSettings


class DatabaseSettings(SqlSettings):
    """A file on this host."""

    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///./app.db")

    @field_validator("database_url")
    @classmethod
    def _database_url_is_valid(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith("sqlite+aiosqlite://"):
            raise ValueError("this service runs on SQLite: sqlite+aiosqlite:///./app.db")
        return url
