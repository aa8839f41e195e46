"""FastAPI, with the HTTP cache and all that is outside of it around everything else."""

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from app.core import openapi
from app.core.cache import HttpCacheMiddleware
from app.core.invalid_requests import answer_invalid_request
from app.core.request_limits import BODY_TIMEOUT, MAX_BODY_BYTES, BodyLimit


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
        super().__init__(**options)
        self._limits: dict[str, Any] = {"max_bytes": max_body_bytes, "timeout": body_timeout}
        self.exception_handlers[RequestValidationError] = (
            options.get("exception_handlers") or {}
        ).get(RequestValidationError, answer_invalid_request)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with what all routes of a kind may answer."""
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
