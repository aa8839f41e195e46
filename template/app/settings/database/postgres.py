"""PostgreSQL."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import SecretStr, model_validator
from sqlalchemy import URL, make_url

from app.settings.database.sql import SqlSettings
from app.settings.service import is_local

_IN_FRONT = "it belongs in front of the ?, as user:password@host:port/database"
_FOR_THE_ROLE = "set it for the role: ALTER ROLE ... SET name = value"
_OURS = "DATABASE_TIMEOUT bounds what takes time"
# What asks for no more than the driver does anyway.
_HARMLESS = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "sslrootcert": ("system",),
}
_VALUES = {
    "ssl": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": (
        *("any", "primary", "standby"),
        *("prefer-standby", "read-write", "read-only"),
    ),
}


class DatabaseSettings(SqlSettings):
    """A password that is not the default, and verified TLS, on the way to another host."""

    _product = "PostgreSQL"
    _example = "postgresql+asyncpg://..."
    _parameters = frozenset(
        {"host", "passfile", "prepared_statement_cache_size", "ssl", "target_session_attrs"}
    )
    _instead: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("user", "password", "port", "dbname", "database"), _IN_FRONT),
        **dict.fromkeys(("options", "server_settings", "schema", "search_path"), _FOR_THE_ROLE),
        **dict.fromkeys(("connect_timeout", "timeout", "command_timeout"), _OURS),
        **dict.fromkeys(("pgbouncer", "statement_cache_size"), "set DATABASE_POOLER=transaction"),
        "application_name": "the driver cannot send it; a role of its own tells services apart",
        "channel_binding": "the driver has none; leave it out, and take ?ssl=verify-full",
        "sslcert": "set the variable PGSSLCERT",
        "sslkey": "set the variable PGSSLKEY",
        "sslrootcert": "set the variable PGSSLROOTCERT to the file",
        "connection_limit": "set DATABASE_POOL_SIZE",
        "pool_timeout": "set DATABASE_POOL_TIMEOUT",
    }

    database_url: SecretStr = SecretStr(
        "postgresql+asyncpg://postgres:postgres@127.0.0.1:5432/postgres"
    )
    database_pooler: Literal["none", "session", "transaction"] = "none"
    """What is between the service and PostgreSQL. `transaction`: a pooler, such as PgBouncer, that
    gives a connection to one transaction at a time."""

    @property
    def database_connect_args(self) -> dict[str, Any]:
        """What the driver has to know of the pooler."""
        if self.database_pooler != "transaction":
            return {}
        # Each statement is prepared anew, and without a name, in the transaction that executes it:
        # what it leaves on a connection is in nobody's way.
        return {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": str,
        }

    @classmethod
    def _translate(cls, url: URL) -> URL:
        query = dict(url.query)
        if "sslmode" in query and "ssl" in query:
            raise ValueError("has both ssl= and sslmode=")
        if "sslmode" in query:
            query["ssl"] = query.pop("sslmode")
        for name, harmless in _HARMLESS.items():
            if query.get(name) in harmless:
                del query[name]
        if len(_hosts(url)) > 1:
            # A replica would take the connection, and none of the writes.
            query.setdefault("target_session_attrs", "read-write")
        return url if query == url.query else url.set(query=query)

    @classmethod
    def _check(cls, url: URL) -> None:
        super()._check(url)
        for name, values in _VALUES.items():
            if url.query.get(name, values[0]) not in values:
                raise ValueError(f"needs a {name}= that is one of {', '.join(values)}")

    @model_validator(mode="after")
    def _host_is_verified(self) -> Self:
        if make_url(self.database_url.get_secret_value()).query.get("ssl") == "verify-ca":
            self._doubts.append(
                "DATABASE_URL has ssl=verify-ca, which takes every certificate of the authority, "
                "whichever host it names: verify-full also looks at the name"
            )
        return self

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        url = make_url(self.database_url.get_secret_value())
        remote = [host for host in _hosts(url) if not is_local(host)]
        if url.password == "postgres" or (remote and not url.password):
            found.append("DATABASE_URL needs a password that is not the default")
        # With `require`, whoever is in between may show any certificate, and is told the password.
        verified = url.query.get("ssl") in {"verify-ca", "verify-full"}
        if not verified and not all(self._is_trusted(host) for host in remote):
            found.append(
                "DATABASE_URL needs TLS that verifies the server (?ssl=verify-full, or verify-ca "
                "where certificates do not name their host), or its host in PRIVATE_HOSTS if the "
                "network in between is yours"
            )
        return found


def _hosts(url: URL) -> list[str]:
    """The hosts of a URL, as SQLAlchemy reads it."""
    given = url.query.get("host", ())
    places = ",".join([given] if isinstance(given, str) else given)
    return [_without_port(place) for place in places.split(",") if place] or [url.host or ""]


def _without_port(place: str) -> str:
    if place.startswith("/"):
        return ""  # a socket of this host
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place.partition(":")[0] if place.count(":") == 1 else place
