"""The cookie. `__Host-` makes browsers insist on TLS, on this very host and on the whole of it."""

from starlette.requests import HTTPConnection

NAME = "__Host-session"
_PLAIN_NAME = "session"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def read(connection: HTTPConnection, *, plain_on_loopback: bool) -> str | None:
    """The id that came with a request."""
    plain = plain_on_loopback and _is_plain_loopback(connection)
    return connection.cookies.get(_PLAIN_NAME if plain else NAME)


def write(
    connection: HTTPConnection, session_id: str, max_age: int, *, plain_on_loopback: bool
) -> str:
    """The value of a Set-Cookie header; `max_age` in seconds, 0 to have it forgotten."""
    # Lax and not Strict: a link from elsewhere should not find its reader logged out.
    rules = f"Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax"
    if plain_on_loopback and _is_plain_loopback(connection):
        return f"{_PLAIN_NAME}={session_id}; {rules}"
    return f"{NAME}={session_id}; {rules}; Secure"


def _is_plain_loopback(connection: HTTPConnection) -> bool:
    url = connection.url
    return url.scheme in {"http", "ws"} and url.hostname in _LOOPBACK
