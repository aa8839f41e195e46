"""PostgreSQL."""

from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from app.settings.database.sql import SqlSettings
from app.settings.service import is_local


class DatabaseSettings(SqlSettings):
    """A password that is not the default, and TLS, on the way to another host."""

    _product = "PostgreSQL"
    _example = "postgresql+asyncpg://..."

    database_url: SecretStr = SecretStr(
        "postgresql+asyncpg://postgres:postgres@127.0.0.1:5432/postgres"
    )

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        database = urlsplit(self.database_url.get_secret_value())
        query = parse_qs(database.query)
        hosts = [database.hostname or "", *query.get("host", [])]
        remote = {host.partition(":")[0] for host in hosts if not is_local(host)}
        if database.password == "postgres" or (remote and not database.password):
            found.append("DATABASE_URL needs a password that is not the default")
        verified = query.get("ssl", [""])[-1] in {"require", "verify-ca", "verify-full"}
        if not verified and not all(self._is_trusted(host) for host in remote):
            found.append(
                "DATABASE_URL needs TLS (?ssl=verify-full), or its host in PRIVATE_HOSTS if the "
                "network in between is yours"
            )
        return found
