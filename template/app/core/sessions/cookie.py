"""The cookie. With `__Host-` in its name, browsers insist on TLS, and send it to this host only.

Browsers keep the cookies of a host together whatever the port, so services that share a host need
different names. Otherwise each login would end the others'.
"""

import re
from dataclasses import dataclass

from starlette.requests import HTTPConnection

_OLD_NAME = "session"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}", re.ASCII)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The cookie of one service."""

    name: str = _OLD_NAME
    """Without the prefix `__Host-`."""
    plain_on_loopback: bool = False
    """Whether it goes without TLS to this machine, for development."""

    def __post_init__(self) -> None:
        """Raise ValueError if the name cannot be that of a cookie."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"the name of a cookie has letters, digits, hyphens, dots and underscores, not "
                f"{self.name!r}"
            )

    def is_plain(self, connection: HTTPConnection) -> bool:
        """Return whether the cookie of this request goes without TLS."""
        if not self.plain_on_loopback:
            return False
        url = connection.url
        return url.scheme in {"http", "ws"} and url.hostname in _LOOPBACK

    def read(self, connection: HTTPConnection) -> str | None:
        """Return the id that came with a request."""
        return _read(connection, self._name(connection, self.name))

    def read_old(self, connection: HTTPConnection) -> str | None:
        """Return the id under the name that all services had before each had its own."""
        if self.name == _OLD_NAME:
            return None
        return _read(connection, self._name(connection, _OLD_NAME))

    def write(self, connection: HTTPConnection, session_id: str, max_age: int) -> str:
        """Return the value of a Set-Cookie header; `max_age` in seconds, 0 to remove the cookie."""
        return self._write(connection, self.name, session_id, max_age)

    def remove_old(self, connection: HTTPConnection) -> str:
        """Return the value of a Set-Cookie header that removes the cookie of the old name."""
        return self._write(connection, _OLD_NAME, "", 0)

    def _write(self, connection: HTTPConnection, name: str, session_id: str, max_age: int) -> str:
        # Lax, not Strict: who follows a link from elsewhere should not be logged out.
        rules = f"Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax"
        secure = "" if self.is_plain(connection) else "; Secure"
        return f"{self._name(connection, name)}={session_id}; {rules}{secure}"

    def _name(self, connection: HTTPConnection, name: str) -> str:
        return name if self.is_plain(connection) else f"__Host-{name}"


def _read(connection: HTTPConnection, name: str) -> str | None:
    """Return the value of a cookie that was sent exactly once, by the bytes that were sent.

    Parsers of text take `\\xa0__Host-...` for the name without that blank, and any page may set a
    cookie of that name. Of two cookies nobody knows which is the browser's own.
    """
    wanted = name.encode()
    found = []
    for header, line in connection.scope["headers"]:
        if header == b"cookie":
            for pair in line.split(b";"):
                key, equals, value = pair.partition(b"=")
                if equals and key.strip(b" \t") == wanted:
                    found.append(value.strip(b" \t"))
    return found[0].decode("latin-1") if len(found) == 1 else None
