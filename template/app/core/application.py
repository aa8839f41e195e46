"""FastAPI with bounded requests, and with the HTTP cache outside of its own layers."""

import asyncio
from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY, RequestBodyLimitMiddleware
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core import openapi, problems
from app.core.api_docs import api_docs_routes
from app.core.cache import HttpCacheMiddleware
from app.core.cache.http import CachedRoute

MAX_BODY_BYTES = 1024 * 1024
BODY_TIMEOUT = 60.0


class Application(FastAPI):
    """Puts the middleware from the outermost to the HTTP cache around FastAPI's own.

    Their order is that of `add_middleware`, as ever: the last one added is the outermost. FastAPI
    has layers of its own around all middleware, for errors that nothing handles, telemetry and the
    size of bodies. A cache hit has no use for them, and they are an eighth of the time that it
    takes in the application. What a middleware around the cache raises is not answered by the
    application's handlers but by the server, with a plain 500.
    """

    def __init__(
        self,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        body_timeout: float = BODY_TIMEOUT,
        **options: Any,
    ) -> None:
        """Make an application with bounded requests; `options` are those of FastAPI.

        Args:
            max_body_bytes: of requests to routes that have no `max_body_size` of their own. Unlike
                FastAPI's own option it costs requests without a body nothing.
            body_timeout: the longest that a body may take to arrive, in seconds.
        """
        super().__init__(**{"docs_url": None, "redoc_url": None, **options})
        if self.openapi_url:
            self.router.routes += api_docs_routes(self)
        self._limits: dict[str, Any] = {"max_bytes": max_body_bytes, "timeout": body_timeout}
        given = options.get("exception_handlers") or {}
        for error, handler in (
            (AnyHTTPException, problems.answer_http_error),
            (RequestValidationError, problems.answer_invalid_request),
        ):
            self.exception_handlers[error] = given.get(error, handler)
        self.exception_handlers.setdefault(405, answer_method_not_allowed)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, with what all routes of a kind may answer."""
        known, schema = self.openapi_schema, super().openapi()
        if schema is not known:  # FastAPI keeps it
            openapi.complete(schema, self.routes)
        return schema

    def build_middleware_stack(self) -> ASGIApp:
        added = self.user_middleware
        # OpenTelemetry's instrumentation puts itself in front of this method, and expects FastAPI's
        # order: the hits that it then sees are worth what they cost.
        is_instrumented = "build_middleware_stack" in vars(self)
        classes: list[object] = [middleware.cls for middleware in added]  # the outermost first
        count = classes.index(HttpCacheMiddleware) + 1 if HttpCacheMiddleware in classes else 0
        around = [] if is_instrumented else added[:count]
        self.user_middleware = [Middleware(BodyLimit, **self._limits), *added[len(around) :]]
        try:
            stack = super().build_middleware_stack()
        finally:
            self.user_middleware = added
        for middleware, args, options in reversed(around):
            stack = middleware(stack, *args, **options)
        return stack


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
        """Limit bodies; `timeout` is in seconds, counted while the application waits for them."""
        self._app = app
        self._limited = RequestBodyLimitMiddleware(app, max_body_size=max_bytes)
        self._max_bytes = max_bytes
        self._timeout = timeout

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # What is inside is awaited by whoever awaits this: a layer less for cached responses.
        if scope["type"] != "http" or _has_no_body(scope):
            return self._app(scope, receive, send)
        return self._limited(
            scope, self._in_time(scope, receive), _send_problems(scope, receive, send)
        )

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


def _send_problems(scope: Scope, receive: Receive, send: Send) -> Send:
    """Make the plain text of Starlette's limit a problem, as are all other errors."""
    is_replaced = False

    async def send_problem(message: Message) -> None:
        nonlocal is_replaced
        if message["type"] == "http.response.start" and message["status"] == 413:
            kind = dict(message["headers"]).get(b"content-type", b"")
            if is_replaced := kind.startswith(b"text/plain"):
                await problems.answer(413)(scope, receive, send)
        if not is_replaced:
            await send(message)

    return send_problem


def _has_no_body(scope: Scope) -> bool:
    """Whether a request says that it has no body; HTTP/2 need not say that it has one."""
    if scope["http_version"] not in ("1.1", "1.0"):
        return False
    for name, _ in scope["headers"]:
        if name == b"content-length" or name == b"transfer-encoding":
            return False
    return True


async def answer_method_not_allowed(request: Request, error: AnyHTTPException) -> Response:
    """Complete `Allow` of a 405, and answer as the application answers other statuses.

    RFC 9110, 15.5.6, has it list all methods of the path. Starlette lists those of the first route,
    and usually each method is a route of its own.
    """
    given = (error.headers or {}).get("Allow", "").split(", ")
    methods = {*given, *_methods(request)} - {""}
    error.headers = {**(error.headers or {}), "Allow": ", ".join(sorted(methods))}
    handlers = request.app.exception_handlers
    handler = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    answer = handler(request, error)
    response: Response = await answer if isawaitable(answer) else answer
    return response


def _methods(request: Request) -> set[str]:
    """Return the methods of the routes that would take the path with another method."""
    app: FastAPI = request.app
    scope = dict(request.scope)
    # What is mounted has made its own place the root.
    scope["root_path"] = scope.get("app_root_path", scope.get("root_path", ""))
    found = set()
    for route in iter_route_contexts(app.routes):
        if route.matches(scope)[0] is Match.PARTIAL:
            found |= route.methods or set()
            if isinstance(route.endpoint, CachedRoute):
                found.add("HEAD")
    return found
