"""What all databases have that speak SQL."""

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import Field, SecretStr, field_validator
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.settings.service import ServiceSettings


class SqlSettings(ServiceSettings):
    """Where the database is, and how long the service waits for it."""

    _product: ClassVar[str]
    _example: ClassVar[str]
    _parameters: ClassVar[frozenset[str]]
    """What the driver takes after the ? of a URL. Anything else would fail every query."""
    _instead: ClassVar[Mapping[str, str]]
    """What to do instead of parameters that other drivers take."""

    database_url: SecretStr
    database_pool_size: int = Field(default=10, ge=1)
    """Connections per process."""
    database_pool_timeout: float = Field(default=2.0, gt=0)
    """The longest wait for a connection to come free."""
    database_timeout: float = Field(default=5.0, gt=0)
    """The longest a whole transaction may take."""

    def _urls(self) -> dict[str, URL]:
        """The URLs of databases, by the names of their settings."""
        return {"DATABASE_URL": make_url(self.database_url.get_secret_value())}

    def _passwords(self) -> dict[str, str]:
        found = {name: url.password for name, url in self._urls().items() if url.password}
        return super()._passwords() | found

    @property
    def database_connect_args(self) -> dict[str, Any]:
        """What the driver has to know besides the URL."""
        return {}

    @field_validator("database_url")
    @classmethod
    def _database_url_is_valid(cls, secret: SecretStr) -> SecretStr:
        return cls._read(secret, cls._translate)

    @classmethod
    def _read(cls, secret: SecretStr, translate: Callable[[URL], URL]) -> SecretStr:
        """Check a URL, and say it in the words of the driver."""
        text = secret.get_secret_value()
        scheme = cls._example.partition("://")[0]
        if not text.startswith(f"{scheme}://"):
            raise ValueError(f"this service runs on {cls._product}: {cls._example}")
        # Read as the driver will: no two parsers agree on what is the host of each URL.
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):  # without its text, which may be the password
            raise ValueError("what follows :// or @ in a database URL is not host:port") from None
        translated = translate(url)
        cls._check(translated)
        if translated == url:
            return secret
        return SecretStr(translated.render_as_string(hide_password=False))

    @classmethod
    def _translate(cls, url: URL) -> URL:
        """Say in the words of the driver what is said in those of others."""
        return url

    @classmethod
    def _check(cls, url: URL) -> None:
        for name, value in url.query.items():
            if not re.fullmatch(r"[\w-]{1,40}", name):
                raise ValueError("what follows ? in a database URL is not name=value")
            if instead := cls._instead.get(name):
                raise ValueError(f"cannot have {name}= in it: {instead}")
            if name not in cls._parameters:
                known = ", ".join(sorted(cls._parameters))
                raise ValueError(f"has {name}=, which the driver does not know. It knows {known}")
            if not isinstance(value, str) and name != "host":
                raise ValueError(f"has {name}= twice")
        try:
            url.get_dialect()().create_connect_args(url)
        except (ArgumentError, ValueError) as error:
            raise ValueError(f"has a parameter that is wrong: {error}") from None
