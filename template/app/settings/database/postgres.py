"""PostgreSQL."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import SecretStr, model_validator
from sqlalchemy import URL, make_url

from app.settings.database.authorities import (
    check_authorities,
    dsn_of_the_system,
    own_authorities,
)
from app.settings.database.replica import ReplicaSettings
from app.settings.service import is_local

_IN_FRONT = "it belongs in front of the ?, as user:password@host:port/database"
_FOR_THE_ROLE = "set it for the role: ALTER ROLE ... SET name = value"
_OURS = "DATABASE_TIMEOUT bounds what takes time"
# What asks for no more than the driver does anyway.
_HARMLESS = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
}
_VERIFIED = ("verify-ca", "verify-full")
# With which the driver logs in where the URL has no password.
_LOGINS = ("PGPASSWORD", "PGPASSFILE", "PGSSLCERT")
_VALUES = {
    "ssl": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": (
        *("any", "primary", "standby"),
        *("prefer-standby", "read-write", "read-only"),
    ),
}


class DatabaseSettings(ReplicaSettings):
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
        "sslrootcert": "set the variable PGSSLROOTCERT to the file; unset, it is the system's",
        "connection_limit": "set DATABASE_POOL_SIZE",
        "pool_timeout": "set DATABASE_POOL_TIMEOUT",
    }

    database_url: SecretStr = SecretStr(
        "postgresql+asyncpg://postgres:postgres@127.0.0.1:5432/postgres"
    )
    """The server, who logs in, and the database. In production with `?ssl=verify-full`."""
    database_pooler: Literal["none", "session", "transaction"] = "none"
    """What is between the service and PostgreSQL. `transaction`: a pooler, such as PgBouncer, that
    gives a connection to one transaction at a time."""

    @property
    def database_connect_args(self) -> dict[str, Any]:
        """What the driver has to know of the pooler, and of the authorities of certificates."""
        return self._connect_args(self.database_url)

    @property
    def database_read_connect_args(self) -> dict[str, Any]:
        """The same for the replica."""
        return self._connect_args(self.database_read_url)

    def _connect_args(self, secret: SecretStr) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        url = make_url(secret.get_secret_value())
        if url.query.get("ssl") in _VERIFIED and (dsn := dsn_of_the_system()):
            arguments["dsn"] = dsn
        if self.database_pooler == "transaction":
            # Each statement is prepared anew, and without a name, in the transaction that executes
            # it: what it leaves on a connection is in nobody's way.
            arguments |= {
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": str,
            }
        return arguments

    @classmethod
    def _translate(cls, url: URL) -> URL:
        if len(_hosts(url)) > 1 and "target_session_attrs" not in url.query:
            # A replica would take the connection, and none of the writes.
            url = url.update_query_dict({"target_session_attrs": "read-write"})
        return cls._translate_words(url)

    @classmethod
    def _translate_words(cls, url: URL) -> URL:
        query = dict(url.query)
        if "sslmode" in query and "ssl" in query:
            raise ValueError("has both ssl= and sslmode=")
        if "sslmode" in query:
            query["ssl"] = query.pop("sslmode")
        if query.get("sslrootcert") == "system":
            _take_the_system(query)
        for name, harmless in _HARMLESS.items():
            if query.get(name) in harmless:
                del query[name]
        return url if query == url.query else url.set(query=query)

    @classmethod
    def _check(cls, url: URL) -> None:
        super()._check(url)
        for name, values in _VALUES.items():
            if url.query.get(name, values[0]) not in values:
                raise ValueError(f"needs a {name}= that is one of {', '.join(values)}")
        if url.query.get("ssl") in _VERIFIED:
            check_authorities()

    @model_validator(mode="after")
    def _host_is_verified(self) -> Self:
        for name, url in self._urls().items():
            if url.query.get("ssl") == "verify-ca":
                self._doubts.append(
                    f"{name} has ssl=verify-ca, which takes every certificate of the authority, "
                    "whichever host it names: verify-full also looks at the name"
                )
        return self

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        for name, url in self._urls().items():
            remote = [host for host in _hosts(url) if not is_local(host)]
            password = url.password or os.environ.get("PGPASSWORD")
            if password == "postgres":
                found.append(f"{name} needs a password that is not the default")
            elif remote and not _has_login(url):
                found.append(
                    f"{name} needs a password that is not the default, or passfile= in it, or one "
                    f"of the variables {', '.join(_LOGINS)}"
                )
            # With `require`, whoever is in between may show any certificate, and is told the
            # password.
            verified = url.query.get("ssl") in _VERIFIED
            if not verified and not all(self._is_trusted(host) for host in remote):
                found.append(
                    f"{name} needs TLS that verifies the server (?ssl=verify-full, or verify-ca "
                    "where certificates do not name their host), or its host in PRIVATE_HOSTS if "
                    "the network in between is yours"
                )
        return found


def _take_the_system(query: dict[str, Any]) -> None:
    """As libpq does: the system's authorities vouch for so many that the name has to be right."""
    if query.setdefault("ssl", "verify-full") != "verify-full":
        raise ValueError("has sslrootcert=system, which needs ssl=verify-full")
    if file := own_authorities():
        raise ValueError(
            f"has sslrootcert=system, but {file} goes first: leave one of them out, the file by "
            "unsetting PGSSLROOTCERT or by moving it away"
        )
    del query["sslrootcert"]


def _has_login(url: URL) -> bool:
    given = (url.password, url.query.get("passfile"), *map(os.environ.get, _LOGINS))
    return any(given)


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
