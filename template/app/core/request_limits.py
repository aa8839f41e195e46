"""How much a request may bring, and how long it may take to bring it."""

import asyncio
from collections.abc import Awaitable

from fastapi import HTTPException
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY, RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1024 * 1024
BODY_TIMEOUT = 60.0


class BodyLimit:
    """Bounds the bodies of requests: 413 for one that is too long, 408 for one that is too slow.

    A route that takes more says so: `@router.post(..., max_body_size=50_000_000)`. It has more time
    for them in proportion. A request without a body costs nothing here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int = MAX_BODY_BYTES,
        timeout: float = BODY_TIMEOUT,
    ) -> None:
        """`timeout` is in seconds, and counts only while the application waits for the body."""
        self._app = app
        self._limited = RequestBodyLimitMiddleware(app, max_body_size=max_bytes)
        self._max_bytes = max_bytes
        self._timeout = timeout

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # What is inside is awaited by whoever awaits this: a layer less for cached responses.
        if scope["type"] != "http" or _has_no_body(scope):
            return self._app(scope, receive, send)
        return self._limited(scope, self._in_time(scope, receive), send)

    def _in_time(self, scope: Scope, receive: Receive) -> Receive:
        clock = asyncio.get_running_loop().time
        waited, more = 0.0, True

        async def receive_in_time() -> Message:
            nonlocal waited, more
            if not more:  # what comes now is that the client has gone
                return await receive()
            share = scope.get(MAX_BODY_SIZE_SCOPE_KEY, self._max_bytes) / max(self._max_bytes, 1)
            began = clock()
            try:
                async with asyncio.timeout(self._timeout * max(share, 1) - waited):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, "the request did not arrive in time", {"connection": "close"}
                ) from None
            waited += clock() - began
            more = message.get("more_body", False)
            return message

        return receive_in_time


def _has_no_body(scope: Scope) -> bool:
    """Whether a request says that it has no body; HTTP/2 need not say that it has one."""
    if scope["http_version"] not in ("1.1", "1.0"):
        return False
    for name, _ in scope["headers"]:
        if name == b"content-length" or name == b"transfer-encoding":
            return False
    return True
