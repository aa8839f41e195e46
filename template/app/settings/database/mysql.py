"""MySQL and MariaDB."""

from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from app.settings.database.sql import SqlSettings
from app.settings.service import is_local


class DatabaseSettings(SqlSettings):
    """A password that is not the default, and TLS, on the way to another host."""

    _product = "MySQL and MariaDB"
    _example = "mysql+asyncmy://..."

    database_url: SecretStr = SecretStr("mysql+asyncmy://root:mysql@127.0.0.1:3306/app")

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        database = urlsplit(self.database_url.get_secret_value())
        host = database.hostname or ""
        if not is_local(host) and (not database.password or database.password == "mysql"):
            found.append("DATABASE_URL needs a password that is not the default")
        # Without an authority to ask, the driver would take any certificate.
        if not parse_qs(database.query).get("ssl_ca") and not self._is_trusted(host):
            found.append(
                "DATABASE_URL needs TLS (?ssl_ca=/etc/ssl/certs/ca-certificates.crt), or its "
                "host in PRIVATE_HOSTS if the network in between is yours"
            )
        return found
