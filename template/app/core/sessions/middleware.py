"""Writes the session of a request before its response, and sends the cookie along.

The routes that depend on a session load it (`dependency.py`), so the others cost nothing.
"""

from collections.abc import Awaitable, Callable

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core import problems
from app.core.redis import is_transient
from app.core.sessions import metrics
from app.core.sessions.dependency import REQUEST_SESSION, RequestSession
from app.core.sessions.errors import SessionConflict, SessionEnded
from app.core.sessions.session import Session
from app.core.sessions.sessions import Sessions

log = structlog.get_logger(__name__)


class _NotSaved(Exception):
    """Raised through the application: do not send its response, the session is not written."""

    def __init__(self, error: Exception) -> None:
        super().__init__(repr(error))
        self.error = error


class SessionMiddleware:
    """Add it before the middleware of the HTTP cache, so that it is inside of that."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        sessions: Sessions,
        unavailable: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        """Wrap an application.

        Args:
            app: what is wrapped.
            sessions: those of the service.
            unavailable: makes the response to a request whose session could not be written.
        """
        self._app = app
        self._sessions = sessions
        self._unavailable = unavailable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = scope[REQUEST_SESSION] = RequestSession(self._sessions)
        has_begun = scope["type"] == "websocket"  # which has no response that could wait

        async def send_saved(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                if request.session is not None:
                    if message["status"] < 500:
                        await _save(request.session)
                    message = {**message, "headers": list(message.get("headers", ()))}
                    self._add_headers(request, HTTPConnection(scope), MutableHeaders(scope=message))
                has_begun = message["status"] < 500
            await send(message)

        try:
            await self._app(scope, receive, send_saved)
        except _NotSaved as failed:
            if isinstance(failed.error, SessionConflict):
                response: Response = problems.answer(409, failed.error.detail)
            else:
                response = await self._unavailable(Request(scope), failed.error)
            await response(scope, receive, send)
        except Exception:
            if has_begun and request.session is not None:
                await _save_late(request.session)
            raise
        else:
            if has_begun and request.session is not None:
                await _save_late(request.session)

    def _add_headers(
        self, request: RequestSession, connection: HTTPConnection, headers: MutableHeaders
    ) -> None:
        assert request.session is not None
        if "cookie" not in headers.get("vary", "").lower():
            headers.add_vary_header("Cookie")
        control = headers.get("cache-control", "").lower()
        if "private" not in control and "no-store" not in control:
            headers["cache-control"] = "no-store"
        if (cookie := request.session.new_cookie()) is not None:
            headers["cache-control"] = "no-store"
            headers.append("set-cookie", self._sessions.cookie.write(connection, *cookie))
        if request.has_old_cookie:
            headers.append("set-cookie", self._sessions.cookie.remove_old(connection))


async def _save(session: Session) -> None:
    """Write what has changed. Raises _NotSaved if the response must not be sent."""
    try:
        await session.save()
    except SessionEnded:
        # Somebody logged out meanwhile. The request was allowed when it came, so it is answered.
        # The cookie is not removed, for it may be the next session's by now.
        pass
    except Exception as error:
        if isinstance(error, SessionConflict) or is_transient(error):
            raise _NotSaved(error) from error
        raise


async def _save_late(session: Session) -> None:
    """Write what streams, background tasks and the code after `yield` have changed.

    The response is on its way, so a failure can only be logged.
    """
    why = "the response had begun, and with it the cookie: log in, rotate and begin sessions before"
    try:
        if await session.save_late():
            return
    except SessionEnded:
        return
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    metrics.writes.labels("late").inc()
    log.error("sessions.not_written", why=why)
