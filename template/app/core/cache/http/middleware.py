"""Public hits are answered here, before FastAPI looks at the request.

Finding a route, resolving its dependencies and serializing its model costs many times what it takes
to send bytes that are ready. Everything that is not a plain hit goes on to the route, together with
what was read, so that nothing is read twice.
"""

from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache.http.checks import check_middleware, check_unserved, compresses
from app.core.cache.http.headers import ResponseRenderer, conditions
from app.core.cache.http.route import PEEK, Peek
from app.core.cache.http.route_table import PublishedRoute, RouteTable
from app.core.cache.keys import EntryKeys
from app.core.cache.results import now_ms
from app.core.implementations import current
from app.core.responses import ResponseSender
from app.core.scope import ROUTE_TEMPLATE

ROUTE_MATCH = "app.cache.route_match"
"""In the scope: the route that the middleware has found for this request."""
SENDER = "app.cache.sender"
"""In the scope: what the request is answered through, if no middleware is in between. Whoever finds
it takes it away: through it the scope holds itself, and only garbage collection ends that."""


class HttpCacheMiddleware:
    """Knows every cached route of the application. Add it like any middleware.

    A hit passes only the middleware outside of it: add what refuses requests later than this one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._prerouter = current().prerouter
        self._table: RouteTable | None = None
        self._is_innermost = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and "app" in scope:
            await self._start(scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        if self._table is None and "app" in scope:
            self._index_routes(scope["app"])
        if self._table is not None and (found := self._table.find(scope)) is not None:
            route, keys, match = found
            if match is not None:
                scope[ROUTE_MATCH] = match
            if scope["method"] == "HEAD":
                send = _without_body(send)
            if keys is not None and await _answer(route, keys, scope, send):
                return
            if scope["method"] == "HEAD":
                # The route knows GET only; HEAD is the same without the body. Others see the
                # request as it came, so the name of the route goes with it.
                scope[ROUTE_TEMPLATE] = route.template
                scope = {**scope, "method": "GET"}
            elif self._is_innermost and match is not None and isinstance(send, ResponseSender):
                scope[SENDER] = send
            send = _completing(send, route.cached.renderer)
        await self._app(scope, receive, send)

    async def _start(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Index the routes once, when the application starts."""
        try:
            self._index_routes(scope["app"])
        except Exception as error:
            # A server takes an error that is only raised for an application without a lifespan,
            # and serves it.
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await self._app(scope, receive, send)

    def _index_routes(self, app: FastAPI) -> None:
        self._table = table = RouteTable(app.routes, self._prerouter)
        classes: list[Any] = [middleware.cls for middleware in app.user_middleware]
        # It has to be the only one: what is between two would not see what the outer one answers.
        mine = [number for number, one in enumerate(classes) if one is HttpCacheMiddleware]
        self._is_innermost = mine == [len(classes) - 1]
        self._prerouter.install(app.router)
        check_unserved(table.cached, table.uncached)
        if mine:
            check_middleware(classes[mine[-1] + 1 :])
            if any(map(compresses, classes[: mine[0]])):
                for cached in table.cached:
                    cached.renderer.vary_by((), is_compressed=True)


async def _answer(route: PublishedRoute, keys: EntryKeys, scope: Scope, send: Send) -> bool:
    """Answer if there is a fresh entry; otherwise leave what was read in the scope."""
    cached = route.cached
    engine, codec = cached.engine, cached.codec
    # Not by another coroutine: each on the way costs every hit.
    read = engine.recall(codec, keys) or (await engine.fetch(codec, (keys,)))[0]
    now = now_ms()
    entry, outcome = read.entry, read.hit(now)
    if entry is None or outcome is None or read.value is None or read.value.is_error:
        scope[PEEK] = Peek(cached, scope["path"], scope["query_string"], keys, read)
        return False
    codec.count(outcome)
    scope[ROUTE_TEMPLATE] = route.template
    asked = conditions(scope["headers"])
    response = cached.renderer.render(read.value, outcome, entry, now, asked)
    if isinstance(send, ResponseSender) and send.send_raw(response):
        return True
    # A copy, because whoever is outside of us may add to it.
    headers = response.headers.copy()
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
    return True


def _completing(send: Send, renderer: ResponseRenderer) -> Send:
    """Complete whatever a cached route answers, be it an error of one of its dependencies."""

    async def send_complete(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": renderer.unknown(message.get("headers", ()))}
        await send(message)

    return send_complete


def _without_body(send: Send) -> Send:
    async def send_head(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head
