"""The id and the metrics of each request, and a line in the log if it is slow or fails."""

from collections.abc import Collection, Iterable
from random import getrandbits
from time import perf_counter
from typing import Any

import structlog
from fastapi.routing import iter_route_contexts
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core import problems
from app.core.implementations import current
from app.core.observability.logging import reported, request_id
from app.core.observability.metrics import BufferedMetrics, begin_at_zero
from app.core.responses import NO_HEADERS, AddedHeaders
from app.core.scope import REQUEST_ID, ROUTE_TEMPLATE

log = structlog.get_logger(__name__)

_buffered = BufferedMetrics()
total = Counter("http_requests", "Requests answered.", ["method", "route", "status"])
seconds = Histogram(
    "http_request_duration_seconds",
    "From the arrival of a request to the end of its response.",
    ["method", "route"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

UNMATCHED = "unmatched"
"""The route in the metrics of a request that no route matches."""

CLIENT_GONE = 499
"""The status in the metrics of a request whose client went away before the response."""

_HEADER = b"x-request-id"
_ID_CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"
_MAX_ID_LENGTH = 128
# Clients may send any word as a method; a label for each would fill the memory.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def expect_routes(routes: Iterable[BaseRoute]) -> None:
    """Create the series of failures of all routes; see `begin_at_zero`."""
    for route in iter_route_contexts(list(routes)):
        if route.methods and route.path_format:
            begin_at_zero(total, route.methods, [route.path_format], ("500", "503"))


class RequestMiddleware:
    """Gives each request an id, counts it and times it.

    It has to be the outermost middleware (the one that is added last), so that responses from the
    cache in front of the router are counted too. The id is the client's `X-Request-ID` if that is
    valid (1 to 128 letters, digits, `-`, `.` and `_`), else a new one. It is returned with the
    response; for exceptions that nothing handles, `internal_error` does so.

    Args:
        app: the application inside.
        slow: requests that take longer, in seconds, are logged.
        headers: what responses get over http, and what over https.
        quiet: routes whose responses are not logged: probes get a 503 many times a minute while
            the service is not ready, and changes of the health are logged elsewhere.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        slow: float = 1.0,
        headers: tuple[AddedHeaders, AddedHeaders] = (NO_HEADERS, NO_HEADERS),
        quiet: Collection[str] = ("/health/ready",),
    ) -> None:
        self._app = app
        self._sender = current().response_sender
        self._slow = slow
        self._plain, self._secure = headers
        self._quiet = frozenset(quiet)
        self._meters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = perf_counter()
        identity = _given_id(scope["headers"]) or getrandbits(128).to_bytes(16, "big").hex()
        added = self._secure if scope["scheme"] == "https" else self._plain
        sender = self._sender(send, identity.encode(), CLIENT_GONE, added)
        token = request_id.set(identity)
        scope[REQUEST_ID] = identity

        failure: Exception | None = None
        try:
            await self._app(scope, receive, sender)
        except Exception as error:
            failure = error
            if sender.status == CLIENT_GONE:  # of a middleware: FastAPI has answered all others
                await (await internal_error(Request(scope), error))(scope, receive, sender)
            sender.status = max(sender.status, 500)
            raise
        finally:
            took, status = perf_counter() - started, sender.status
            route = route_template(scope)
            self._measure(scope["method"], route, status, took)
            bad = status >= 500 or took > self._slow
            if failure is not None or (bad and route not in self._quiet):
                _report(scope, route, status, took, failure)
            request_id.reset(token)

    def _measure(self, method: str, route: str, status: int, took: float) -> None:
        meters = self._meters.get((method, route, status))
        if meters is None:
            method = method if method in _METHODS else "other"
            meters = total.labels(method, route, str(status)), seconds.labels(method, route)
            if method != "other":
                self._meters[method, route, status] = meters
        _buffered.add(*meters, took)


async def internal_error(request: Request, error: Exception) -> Response:
    """Answer an exception that nothing handles, without a word on it but the request's id."""
    identity = str(request.scope.get(REQUEST_ID))
    return problems.answer(500, headers={"x-request-id": identity}, request_id=identity)


def route_template(scope: Scope) -> str:
    """Return the path of the route that matched, with the names of its parameters: `/items/{id}`.

    The path at which an application is mounted is left out: its parameters have their values.
    """
    template = scope.get(ROUTE_TEMPLATE)
    if template is None:
        # FastAPI keeps the path with the prefixes of `include_router` apart from the route.
        context = scope.get("fastapi", {}).get("effective_route_context")
        template = getattr(context or scope.get("route"), "path_format", UNMATCHED)
    return str(template)


def _given_id(headers: list[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == _HEADER:
            # Whatever remains without the valid characters makes the id invalid.
            if 0 < len(value) <= _MAX_ID_LENGTH and not value.translate(None, _ID_CHARACTERS):
                return value.decode()
            return None
    return None


def _report(scope: Scope, route: str, status: int, took: float, failure: Exception | None) -> None:
    facts: dict[str, Any] = {
        "method": scope["method"],
        "path": scope["path"],
        "route": route,
        "status": status,
        "seconds": round(took, 4),
    }
    if failure is not None:
        reported.set(failure)
        log.error("request.failed", **facts, exc_info=failure)
    elif status >= 500:
        log.error("request.failed", **facts)
    else:
        log.warning("request.slow", **facts)
