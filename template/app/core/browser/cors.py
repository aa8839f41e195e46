"""Lets pages of other origins read what this service answers (CORS, https://fetch.spec.whatwg.org).

It stands around the HTTP cache, and what it says is no part of an entry: a hit is sent with the
headers of whoever asks, not of whoever filled the entry. They are made once for each origin.
"""

import re
from collections.abc import Awaitable, Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core import problems
from app.core.browser.names import check_origins
from app.core.responses import AddedHeaders, Headers, ResponseSender, with_headers

_METHODS = b"DELETE, GET, HEAD, PATCH, POST, PUT"
_EXPOSED = b"*"
"""The headers that a page may read."""
_EXPOSED_WITH_CREDENTIALS = (
    b"Age, Cache-Status, Content-Disposition, ETag, Link, Location, Retry-After, WWW-Authenticate, "
    b"X-Request-ID"
)
"""With credentials * means nothing. A route that has others says so itself."""
_PREFLIGHT_SECONDS = b"600"
_HEADER_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z, -]{0,1000}")
_BY_ORIGIN = (b"vary", b"Origin")


class CorsMiddleware:
    """Add it right inside of `RequestMiddleware`: in between, hits would take longer.

    Pages may send any method and any header, as the origins are exact or get no credentials.
    """

    def __init__(
        self, app: ASGIApp, *, origins: Collection[str], credentials: bool = False
    ) -> None:
        """Answer pages of these origins.

        Args:
            app: what is inside.
            origins: such as "https://app.example"; "*" for all there are.
            credentials: whether pages may send cookies, and read what is answered then.

        Raises:
            ValueError: an origin is none, or all of them would get credentials.
        """
        named = check_origins([origin for origin in origins if origin != "*"])
        self._app = app
        self._is_for_all = "*" in origins
        if self._is_for_all and credentials:
            raise ValueError("credentials are for named origins, and * is all there are")
        self._others: Headers = _allowing("*") if self._is_for_all else [_BY_ORIGIN]
        self._named: dict[bytes, Headers] = {}
        for origin in () if self._is_for_all else named:
            allowed = _allowing(origin, credentials=credentials)
            self._named[origin.encode()] = [*allowed, _BY_ORIGIN]
        self._added: dict[tuple[AddedHeaders, bytes | None], AddedHeaders] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # What is inside is awaited by whoever awaits this: a layer less for cached responses.
        if scope["type"] != "http":  # a web socket is no business of CORS
            return self._app(scope, receive, send)
        origin = None
        for name, value in scope["headers"]:
            if name == b"origin":
                # Of two, nobody knows which: none is allowed then.
                origin = value if origin is None else b""
        known = origin if origin in self._named else None
        if isinstance(send, ResponseSender):
            send.added = self._beside(send.added, known)
        else:
            send = with_headers(send, self._beside(AddedHeaders([]), known))
        if scope["method"] == "OPTIONS" and origin is not None:
            asked = dict(scope["headers"])
            if b"access-control-request-method" in asked:
                is_allowed = known is not None or self._is_for_all
                return _answer_preflight(asked, scope, receive, send, is_allowed=is_allowed)
        return self._app(scope, receive, send)

    def _beside(self, added: AddedHeaders, origin: bytes | None) -> AddedHeaders:
        """Return what others add, and what is said to a known origin, or to all others."""
        made = self._added.get((added, origin))
        if made is None:
            more = self._others if origin is None else self._named[origin]
            made = self._added[added, origin] = AddedHeaders([*added.headers, *more])
        return made


def _allowing(origin: str, *, credentials: bool = False) -> Headers:
    allowed: Headers = [(b"access-control-allow-origin", origin.encode())]
    exposed = _EXPOSED
    if credentials:
        allowed.append((b"access-control-allow-credentials", b"true"))
        exposed = _EXPOSED_WITH_CREDENTIALS
    return [*allowed, (b"access-control-expose-headers", exposed)]


async def _answer_preflight(
    asked: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send, *, is_allowed: bool
) -> None:
    """Answer whether a page may send a request, which comes afterwards."""
    if not is_allowed:
        refusal = problems.answer(403, "this origin is not one of CORS_ORIGINS")
        await refusal(scope, receive, send)
        return
    headers: Headers = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", _PREFLIGHT_SECONDS),
    ]
    names = asked.get(b"access-control-request-headers", b"")
    if names and _HEADER_NAMES.fullmatch(names):
        headers.append((b"access-control-allow-headers", names))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
