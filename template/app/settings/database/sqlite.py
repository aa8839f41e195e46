"""SQLite."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import SecretStr
from sqlalchemy import URL

from app.settings.database.sql import SqlSettings

_OF_URIS = {"cache", "immutable", "mode", "nolock", "psow", "vfs"}


class DatabaseSettings(SqlSettings):
    """A file on this host."""

    _product = "SQLite"
    _example = "sqlite+aiosqlite:///./app.db"
    _parameters = frozenset({"cached_statements", "uri", *_OF_URIS})
    _instead: ClassVar[Mapping[str, str]] = {
        "timeout": "DATABASE_TIMEOUT bounds what takes time",
        "isolation_level": "the service begins its transactions itself",
    }

    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///./app.db")
    """The file: three slashes before one of the working directory, four before an absolute path."""

    @classmethod
    def _check(cls, url: URL) -> None:
        if "uri" not in url.query and (ignored := _OF_URIS & set(url.query)):
            name = min(ignored)
            raise ValueError(f"has {name}=, which needs sqlite+aiosqlite:///file:...&uri=true")
        super()._check(url)
