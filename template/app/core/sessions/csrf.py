"""Writes that another site makes a browser send.

A browser adds the cookie to whatever is sent to its host, also when a page of somebody else sends
it. SameSite=Lax stops most of that, not from a sister domain, and not in every browser. So there
are two checks, each of which would do in a browser that works as it should:

1. Where the request comes from. Browsers say so in Sec-Fetch-Site or, older ones and those on
   plain http, in Origin; no page can change these. Both missing means that it is no browser, and
   that nobody's cookies were added. This holds without a session too, so nobody can be logged in
   as somebody else by a foreign page.
2. The session's token, as `X-CSRF-Token` or in the field `csrf_token` of a form. It can only be
   read by who can read our responses. Logging in needs none: there may be no session yet.
"""

import hmac
import re
from collections.abc import Collection
from importlib.util import find_spec
from urllib.parse import parse_qs

from fastapi import HTTPException, WebSocketException
from starlette.requests import HTTPConnection, Request

from app.core.sessions import metrics

_TOKEN_HEADER = "x-csrf-token"
_TOKEN_FIELD = "csrf_token"
_LONGEST_FORM = 1024 * 1024
_MOST_FIELDS = 1000
_FORM = "application/x-www-form-urlencoded"
_FORM_OF_PARTS = "multipart/form-data"
_READS_PARTS = find_spec("python_multipart") is not None  # which FastAPI's forms need, too
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_ORIGIN = re.compile(r"https?://[^/?#@\s]+", re.ASCII)


def check_origins(origins: Collection[str]) -> frozenset[str]:
    """Raises ValueError unless all have the form in which browsers send them."""
    for origin in origins:
        if not _ORIGIN.fullmatch(origin) or origin != origin.lower():
            raise ValueError(
                f"an origin is a scheme and a host in lower case, such as https://app.example, "
                f"not {origin!r}"
            )
    return frozenset(origins)


def check_source(connection: HTTPConnection, trusted: Collection[str], plain: bool) -> None:
    """Refuse a write that a page of another site sends, unless that is a trusted one.

    A web socket counts as a write: browsers let every page open one. A page of the same host that
    came without TLS is another site, for anybody on the way may have written it.

    Args:
        connection: the request.
        trusted: origins that count as this one.
        plain: pages of this service may have come without TLS.

    Raises:
        HTTPException, WebSocketException: it is refused.
    """
    if not _writes(connection):
        return
    origin, site = connection.headers.get("origin"), connection.headers.get("sec-fetch-site")
    if origin in trusted:
        return
    if site is not None:
        if site not in {"same-origin", "none"}:
            raise _refusal(connection, "site", f"it was sent from another site ({site})")
    elif origin is not None and origin != _own_origin(connection, plain=plain):
        raise _refusal(connection, "origin", "its Origin is another one")


async def given_token(connection: HTTPConnection) -> str | None:
    """The token that a write brings along. A form is read for it only where no header has it."""
    given = connection.headers.get(_TOKEN_HEADER)
    if given is not None or not isinstance(connection, Request) or not _writes(connection):
        return given
    if not _is_form(connection) or _unread(connection) is not None:
        return None
    if _READS_PARTS:
        field = (await connection.form()).get(_TOKEN_FIELD)
        return field if isinstance(field, str) else None
    try:
        fields = parse_qs((await connection.body()).decode(), max_num_fields=_MOST_FIELDS)
    except ValueError:
        return None
    return fields.get(_TOKEN_FIELD, [None])[0]


def check_token(connection: HTTPConnection, token: str, given: str | None) -> None:
    """Refuse a write that does not bring the session's token along.

    A web socket cannot: browsers let no page set a header for it.

    Raises:
        HTTPException: it is refused.
    """
    if connection.scope["type"] == "http" and _writes(connection):
        if given is None:
            why = "it needs the session's token as X-CSRF-Token, or as csrf_token of a form"
            if _is_form(connection) and (unread := _unread(connection)):
                why = f"it needs the session's token as X-CSRF-Token: {unread}"
            raise _refusal(connection, "token", why)
        if not hmac.compare_digest(given.encode(errors="replace"), token.encode()):
            raise _refusal(connection, "token", "X-CSRF-Token is not that of the session")


def _is_form(connection: HTTPConnection) -> bool:
    return _media_type(connection) in (_FORM, _FORM_OF_PARTS)


def _media_type(connection: HTTPConnection) -> str:
    return connection.headers.get("content-type", "").partition(";")[0].strip().lower()


def _unread(connection: HTTPConnection) -> str | None:
    """Why the token is not looked for in this form; None if it is."""
    length = connection.headers.get("content-length", "")
    if not length.isdecimal():
        return "a form without Content-Length is not searched for it"
    if int(length) > _LONGEST_FORM:
        return f"a form of more than {_LONGEST_FORM} bytes is not searched for it"
    if not _READS_PARTS and _media_type(connection) == _FORM_OF_PARTS:
        return "multipart forms are searched for it only where python-multipart is installed"
    return None


def _own_origin(connection: HTTPConnection, *, plain: bool) -> str:
    # Not the scheme that we see: behind a proxy that is not in FORWARDED_ALLOW_IPS it is http.
    return f"{'http' if plain else 'https'}://{connection.headers.get('host')}"


def _writes(connection: HTTPConnection) -> bool:
    return connection.scope.get("method") not in _SAFE_METHODS


def _refusal(
    connection: HTTPConnection, reason: str, why: str
) -> HTTPException | WebSocketException:
    metrics.refusals.labels(reason).inc()
    if connection.scope["type"] == "websocket":
        return WebSocketException(1008, why)
    return HTTPException(403, f"the request is refused: {why}")
