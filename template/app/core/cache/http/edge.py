"""The edge: public hits are answered here, before FastAPI looks at the request.

Finding a route, resolving its dependencies and serializing its model costs many times what it takes
to send bytes that are ready. Everything that is not a plain hit goes on to the route, together with
what was read, so that nothing is read twice.
"""

from collections.abc import MutableMapping
from time import time
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache import early
from app.core.cache.http.checks import check
from app.core.cache.http.headers import find
from app.core.cache.http.parameters import ParameterReader, reader_for
from app.core.cache.http.route import SEEN, CachedRoute
from app.core.cache.recipe import Loaded, Outcome

TEMPLATE = "route.template"
"""In the scope: the path template of a request that no route has seen."""


class HttpCacheMiddleware:
    """Knows every cached route of the application. Add it like any middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._routes: list[_EdgeRoute] | None = None
        self._by_start: dict[str, list[_EdgeRoute]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._routes is None and "app" in scope:
            self._prepare(scope["app"])
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        candidates = self._by_start.get(path.partition("/")[2].partition("/")[0])
        if candidates and not scope.get("root_path"):
            for route in candidates:
                if (match := route.pattern.fullmatch(path)) is None:
                    continue
                if scope["method"] == "HEAD":
                    send = _without_body(send)
                if await route.answer(match.groupdict(), scope, send):
                    return
                if scope["method"] == "HEAD":
                    # The route knows GET only; HEAD is the same without the body.
                    scope = {**scope, "method": "GET"}
                break
        await self._app(scope, receive, send)

    def _prepare(self, app: Any) -> None:
        """Look at the routes once, when the application starts."""
        routes = []
        for context in iter_route_contexts(app.routes):
            cached = context.endpoint
            if isinstance(cached, CachedRoute):
                check(context, cached)
                routes.append(_EdgeRoute(context, cached))
        for route in routes:
            self._by_start.setdefault(route.start, []).append(route)
        self._routes = routes


class _EdgeRoute:
    """One cached route, as the edge sees it."""

    def __init__(self, context: Any, cached: CachedRoute) -> None:
        self.template: str = context.path
        self.pattern = context.path_regex
        self.start = self.template.partition("/")[2].partition("/")[0]
        self._cached = cached
        self._reader: ParameterReader | None = None
        if cached.public:
            self._reader = reader_for(context.dependant, cached.arguments.signature, cached.ignored)

    async def answer(self, path: dict[str, str], scope: Scope, send: Send) -> bool:
        """Answer if there is a fresh entry; otherwise leave what was read in the scope."""
        if self._reader is None:
            return False
        arguments = self._reader.read(path, scope["query_string"])
        if arguments is None:
            return False
        cached, engine = self._cached, self._cached.policy.cache.engine
        address = cached.address(arguments, None)
        seen = await engine.read(cached.kind, address)
        entry, now = seen.entry, int(time() * 1000)
        options = cached.kind.options
        if (
            entry is None
            or now >= entry.fresh_until
            or seen.value.is_error
            or early.may_be_due(
                now, entry.fresh_until, entry.cost, options.ttl, options.early_refresh
            )
        ):
            scope[SEEN] = (address.value, seen)
            return False
        outcome = Outcome.NEAR if seen.near else Outcome.HIT
        cached.kind.count(outcome)
        scope[TEMPLATE] = self.template
        loaded = Loaded(seen.value, outcome, entry.created, entry.fresh_until)
        status, headers, body = cached.sender.prepare(
            seen.value, loaded, now, find(scope["headers"], b"if-none-match")
        )
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return True


def _without_body(send: Send) -> Send:
    async def send_head(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head
