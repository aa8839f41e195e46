"""The cookie. `__Host-` makes browsers insist on TLS, on this very host and on the whole of it.

Browsers keep the cookies of a host together whatever the port, so services that share a host need
different names, or each login ends that of the others.
"""

import re
from dataclasses import dataclass

from starlette.requests import HTTPConnection

_OLD_NAME = "session"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}", re.ASCII)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The cookie of one service, of the name that `name` is without its prefix."""

    name: str = _OLD_NAME
    plain_on_loopback: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError if the name is none."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"the name of a cookie has letters, digits, hyphens, dots and underscores, not "
                f"{self.name!r}"
            )

    def is_plain(self, connection: HTTPConnection) -> bool:
        """Whether it goes without TLS: in development, to this machine."""
        url = connection.url
        plain = url.scheme in {"http", "ws"} and url.hostname in _LOOPBACK
        return plain and self.plain_on_loopback

    def read(self, connection: HTTPConnection) -> str | None:
        """The id that came with a request."""
        return _read(connection, self._name(connection, self.name))

    def read_old(self, connection: HTTPConnection) -> str | None:
        """The id under the name that all services had before each had its own."""
        if self.name == _OLD_NAME:
            return None
        return _read(connection, self._name(connection, _OLD_NAME))

    def write(self, connection: HTTPConnection, session_id: str, max_age: int) -> str:
        """The value of a Set-Cookie header; `max_age` in seconds, 0 to have it forgotten."""
        return self._write(connection, self.name, session_id, max_age)

    def forget_old(self, connection: HTTPConnection) -> str:
        """The value of a Set-Cookie header that removes the one of the old name."""
        return self._write(connection, _OLD_NAME, "", 0)

    def _write(self, connection: HTTPConnection, name: str, session_id: str, max_age: int) -> str:
        # Lax and not Strict: a link from elsewhere should not find its reader logged out.
        rules = f"Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax"
        secure = "" if self.is_plain(connection) else "; Secure"
        return f"{self._name(connection, name)}={session_id}; {rules}{secure}"

    def _name(self, connection: HTTPConnection, name: str) -> str:
        return name if self.is_plain(connection) else f"__Host-{name}"


def _read(connection: HTTPConnection, name: str) -> str | None:
    """The value of a cookie, by the bytes that were sent; None if it came not once.

    Parsers of text take `\\xa0__Host-...` for the name without that blank, and no browser keeps
    anybody from setting that one. Of two, nobody knows which is the browser's own.
    """
    wanted = name.encode()
    found = [
        value.strip(b" \t")
        for header, line in connection.scope["headers"]
        if header == b"cookie"
        for key, equals, value in (pair.partition(b"=") for pair in line.split(b";"))
        if equals and key.strip(b" \t") == wanted
    ]
    return found[0].decode("latin-1") if len(found) == 1 else None
