"""Around every request: writes its session before the response, and sends the cookie along.

The session is not read here but by the routes that depend on it, so the others cost nothing.
"""

from collections.abc import Awaitable, Callable

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.redis import is_transient
from app.core.sessions import metrics
from app.core.sessions.errors import SessionConflict, SessionEnded
from app.core.sessions.manager import Sessions
from app.core.sessions.visit import VISIT, Visit

log = structlog.get_logger(__name__)


class _NotSaved(Exception):
    """Leaves the application, whose response must not be sent: its session could not be written."""

    def __init__(self, error: Exception) -> None:
        super().__init__(repr(error))
        self.error = error


class SessionMiddleware:
    """Add it before (so that it is inside of) the one of the HTTP cache."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        sessions: Sessions,
        unavailable: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        """`unavailable` makes the response to a request whose session Redis did not take."""
        self._app = app
        self._sessions = sessions
        self._unavailable = unavailable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        visit = scope[VISIT] = Visit(self._sessions)
        began = scope["type"] == "websocket"  # which has no response that could wait for a write

        async def send_saved(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                if visit.session is not None:
                    await _save(visit, message["status"])
                    message = {**message, "headers": list(message.get("headers", ()))}
                    self._add_headers(visit, HTTPConnection(scope), MutableHeaders(scope=message))
                began = message["status"] < 500
            await send(message)

        try:
            await self._app(scope, receive, send_saved)
        except _NotSaved as failed:
            request = Request(scope)
            if isinstance(failed.error, SessionConflict):
                response: Response = JSONResponse({"detail": failed.error.detail}, 409)
            else:
                response = await self._unavailable(request, failed.error)
            await response(scope, receive, send)
        except Exception:
            if began:
                await _save_late(visit)
            raise
        else:
            if began:
                await _save_late(visit)

    def _add_headers(
        self, visit: Visit, connection: HTTPConnection, headers: MutableHeaders
    ) -> None:
        assert visit.session is not None
        if "cookie" not in headers.get("vary", "").lower():
            headers.add_vary_header("Cookie")
        control = headers.get("cache-control", "").lower()
        if "private" not in control and "no-store" not in control:
            headers["cache-control"] = "no-store"
        if (new := visit.session.new_cookie()) is not None:
            headers["cache-control"] = "no-store"
            headers.append("set-cookie", self._sessions.cookie.write(connection, *new))
        if visit.renames:
            headers.append("set-cookie", self._sessions.cookie.forget_old(connection))


async def _save(visit: Visit, status: int) -> None:
    assert visit.session is not None
    if status >= 500:
        return
    try:
        await visit.session.save()
    except SessionEnded:
        # Somebody logged out meanwhile. The request was allowed when it came, and is answered; the
        # cookie is not cleared, for it may be the next session's by now.
        pass
    except Exception as error:
        if isinstance(error, SessionConflict) or is_transient(error):
            raise _NotSaved(error) from error
        raise


async def _save_late(visit: Visit) -> None:
    """Write what streams, background tasks and the code after `yield` have changed.

    The response is on its way: what fails can only be logged.
    """
    if visit.session is None:
        return
    why = "the response had begun, and with it the cookie: log in, rotate and begin sessions before"
    try:
        if await visit.session.save_late():
            return
    except SessionEnded:
        return
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    metrics.writes.labels("late").inc()
    log.error("session.not_written", why=why)
