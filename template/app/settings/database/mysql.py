"""MySQL and MariaDB."""

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import SecretStr, model_validator
from sqlalchemy.util import asbool

from app.settings.database.replica import ReplicaSettings
from app.settings.service import is_local

_IN_FRONT = "it belongs in front of the ?, as user:password@host:port/database"
_TLS = "?ssl_ca=/etc/ssl/certs/ca-certificates.crt asks for TLS"
_OTHER_WORDS_FOR_TLS = (
    *("ssl", "sslmode", "ssl-mode", "ssl_mode", "sslMode", "sslaccept", "tls"),
    *("useSSL", "requireSSL", "verifyServerCertificate"),
    *("ssl_verify_cert", "ssl_verify_identity", "ssl_disabled"),
)


class DatabaseSettings(ReplicaSettings):
    """A password that is not the default, and verified TLS, on the way to another host."""

    _product = "MySQL and MariaDB"
    _example = "mysql+asyncmy://..."
    _parameters = frozenset(
        {
            *("charset", "program_name", "unix_socket"),
            *("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher", "ssl_check_hostname"),
        }
    )
    _instead: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("user", "password", "host", "port", "db", "database"), _IN_FRONT),
        **dict.fromkeys(_OTHER_WORDS_FOR_TLS, _TLS),
        **dict.fromkeys(
            ("connect_timeout", "read_timeout", "write_timeout", "timeout"),
            "DATABASE_TIMEOUT bounds what takes time",
        ),
    }

    database_url: SecretStr = SecretStr("mysql+asyncmy://root:mysql@127.0.0.1:3306/app")
    """The server, who logs in, and the database. In production with `?ssl_ca=` and a file."""

    @model_validator(mode="after")
    def _host_is_verified(self) -> Self:
        for name, url in self._urls().items():
            if not asbool(url.query.get("ssl_check_hostname", True)):
                self._doubts.append(
                    f"{name} has ssl_check_hostname=false, which takes every certificate of the "
                    "authority, whichever host it names"
                )
        return self

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        for name, url in self._urls().items():
            host = url.host or ""
            if not is_local(host) and (not url.password or url.password == "mysql"):
                found.append(f"{name} needs a password that is not the default")
            # Without an authority to ask, the driver would take any certificate.
            verified = url.query.get("ssl_ca") or url.query.get("ssl_capath")
            if not verified and not self._is_trusted(host):
                found.append(
                    f"{name} needs TLS (?ssl_ca=/etc/ssl/certs/ca-certificates.crt), or its "
                    "host in PRIVATE_HOSTS if the network in between is yours"
                )
        return found
