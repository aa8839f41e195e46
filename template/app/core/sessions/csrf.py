"""Protection against cross-site request forgery: writes that another site has a browser send.

A browser adds the cookie to whatever is sent to its host, also if another site's page sends it.
SameSite=Lax stops most of that, but not from a sister domain, and not in every browser. So there
are two checks, each of which suffices in a browser that works as it should:

1. Where the request comes from. Browsers say so in Sec-Fetch-Site or, older ones and those on
   plain http, in Origin; no page can change these. If both are missing, it is not a browser, and
   nobody's cookie was added. This check needs no session, so another site's page cannot log
   somebody in as somebody else either.
2. The session's token, as `X-CSRF-Token` or in the field `csrf_token` of a form. Only those who can
   read our responses know it. Logging in needs none: there may be no session yet.
"""

import hmac
from collections.abc import Collection
from contextlib import suppress

from fastapi import HTTPException, WebSocketException
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import HTTPConnection, Request

from app.core.sessions import metrics

_TOKEN_HEADER = "x-csrf-token"
_TOKEN_FIELD = "csrf_token"
_MAX_FORM_BYTES = 1024 * 1024
_FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def is_write(connection: HTTPConnection) -> bool:
    """Return whether a request may change something.

    A web socket counts as a write: browsers let every page open one.
    """
    return connection.scope.get("method") not in _SAFE_METHODS


def check_source(connection: HTTPConnection, *, trusted: Collection[str], plain: bool) -> None:
    """Refuse a write that another site's page sends, unless that site is trusted.

    A page of the same host that came without TLS is another site, for anybody on the way may have
    written it.

    Args:
        connection: the write.
        trusted: origins that count as this service's own.
        plain: whether pages of this service may have come without TLS.

    Raises:
        HTTPException, WebSocketException: it is refused.
    """
    origin, site = connection.headers.get("origin"), connection.headers.get("sec-fetch-site")
    if origin in trusted:
        return
    if site is not None:
        if site not in {"same-origin", "none"}:
            raise _refusal(connection, "site", f"it was sent from another site ({site})")
    elif origin is not None and origin != _own_origin(connection, plain=plain):
        raise _refusal(connection, "origin", "its Origin is another one")


async def check_token(connection: HTTPConnection, token: str) -> None:
    """Refuse a write that does not bring the session's token along.

    A form is read for it only if no header has it.

    Raises:
        HTTPException: it is refused.
    """
    given = connection.headers.get(_TOKEN_HEADER)
    if given is None and isinstance(connection, Request) and _is_form(connection):
        if (reason := _unsearched(connection)) is not None:
            why = f"it needs the session's token as X-CSRF-Token: {reason}"
            raise _refusal(connection, "token", why)
        given = await _token_in_form(connection)
    if given is None:
        why = "it needs the session's token as X-CSRF-Token, or as csrf_token of a form"
        raise _refusal(connection, "token", why)
    if not hmac.compare_digest(given.encode(errors="replace"), token.encode()):
        raise _refusal(connection, "token", "X-CSRF-Token is not that of the session")


async def _token_in_form(request: Request) -> str | None:
    with suppress(RuntimeError):  # FastAPI has read it, for a route that declares fields
        await request.body()  # kept for a route that reads it itself
    try:
        field = (await request.form()).get(_TOKEN_FIELD)
    except AnyHTTPException:  # it is no form, or has too many fields
        return None
    return field if isinstance(field, str) else None


def _is_form(connection: HTTPConnection) -> bool:
    media_type = connection.headers.get("content-type", "").partition(";")[0]
    return media_type.strip().lower() in _FORMS


def _unsearched(connection: HTTPConnection) -> str | None:
    """Return why this form is not searched for the token; None if it is."""
    length = connection.headers.get("content-length", "")
    if not length.isdecimal():
        return "a form without Content-Length is not searched for it"
    if int(length) > _MAX_FORM_BYTES:
        return f"a form of more than {_MAX_FORM_BYTES} bytes is not searched for it"
    return None


def _own_origin(connection: HTTPConnection, *, plain: bool) -> str:
    # Not the scheme that we see: behind a proxy that is not in FORWARDED_ALLOW_IPS that is http.
    return f"{'http' if plain else 'https'}://{connection.headers.get('host')}"


def _refusal(
    connection: HTTPConnection, reason: str, why: str
) -> HTTPException | WebSocketException:
    metrics.refusals.labels(reason).inc()
    if connection.scope["type"] == "websocket":
        return WebSocketException(1008, why)
    return HTTPException(403, f"the request is refused: {why}")
