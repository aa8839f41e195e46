"""SQLite."""

from pydantic import SecretStr

from app.settings.database.sql import SqlSettings


class DatabaseSettings(SqlSettings):
    """A file on this host."""

    _product = "SQLite"
    _example = "sqlite+aiosqlite:///./app.db"

    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///./app.db")
