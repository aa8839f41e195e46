"""Public hits are answered here, before FastAPI looks at the request.

Finding a route, resolving its dependencies and serializing its model costs many times what it takes
to send bytes that are ready. Everything that is not a plain hit goes on to the route, together with
what was read, so that nothing is read twice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from sys import getsizeof
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache.http.checks import (
    check,
    check_middleware,
    check_unserved,
    compresses,
    header_names,
    principal_calls,
    refuse_elsewhere,
)
from app.core.cache.http.headers import ResponseRenderer, conditions
from app.core.cache.http.params import ArgumentReader, reader_for, tree
from app.core.cache.http.route import SEEN, CachedRoute
from app.core.cache.keys import EntryKeys
from app.core.cache.results import now_ms
from app.core.implementations import Prerouter, current
from app.core.responses import ResponseSender
from app.core.scope import ROUTE_TEMPLATE

ROUTE_MATCH = "app.cache.route_match"
"""In the scope: the route that the middleware has found for this request."""
SENDER = "app.cache.sender"
"""In the scope: what the request is answered through, if no middleware is in between. Whoever finds
it takes it away: through it the scope holds itself, and only garbage collection ends that."""

MAX_BYTES = 8 * 1024 * 1024
"""The most memory that this takes of a process."""

_LONGEST = 512
"""Characters of a path and bytes of a query that are remembered."""
_OVERHEAD = 1_000
"""Bytes of what is remembered beside the strings."""

Key = tuple[str, bytes]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """Where a GET belongs."""

    target: object
    """The route, as the prerouter gave it."""
    path: str
    """What was looked for: a middleware may have made it another request since."""
    params: Mapping[str, str]
    """Those of the path, as text."""


class _Aside:
    """In place of a route of which only the router knows what it takes."""


class HttpCacheMiddleware:
    """Knows every cached route of the application. Add it like any middleware.

    A hit passes only the middleware outside of it: add what refuses requests later than this one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._prerouter = current().prerouter
        self._table: _Table | None = None
        self._is_innermost = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and "app" in scope:
            await self._start(scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        if self._table is None and "app" in scope:
            self._look_at(scope["app"])
        if self._table is not None and (found := self._table.find(scope)) is not None:
            route, address, match = found
            if match is not None:
                scope[ROUTE_MATCH] = match
            if scope["method"] == "HEAD":
                send = _without_body(send)
            if address is not None and await route.answer(address, scope, send):
                return
            if scope["method"] == "HEAD":
                # The route knows GET only; HEAD is the same without the body. Others see the
                # request as it came, so the name of the route goes with it.
                scope[ROUTE_TEMPLATE] = route.template
                scope = {**scope, "method": "GET"}
            elif self._is_innermost and match is not None and isinstance(send, ResponseSender):
                scope[SENDER] = send
            send = _completing(send, route.renderer)
        await self._app(scope, receive, send)

    async def _start(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the routes once, when the application starts."""
        try:
            self._look_at(scope["app"])
        except Exception as error:
            # A server takes an error that is only raised for an application without a lifespan,
            # and serves it.
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await self._app(scope, receive, send)

    def _look_at(self, app: FastAPI) -> None:
        self._table = table = _Table(app.routes, self._prerouter)
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


class _Table:
    """The routes of an application, such that the one the router would choose is found fast."""

    def __init__(self, routes: Iterable[BaseRoute], prerouter: Prerouter) -> None:
        self._prerouter = prerouter
        self.cached: list[CachedRoute] = []
        """All that are served, those of mounted applications included."""
        self.uncached: list[object] = []
        """The functions of the other routes."""
        contexts = [(context, self._publish(context)) for context in _walk(routes)]
        last = max((i for i, (_, cached) in enumerate(contexts) if cached), default=-1)
        # An uncached route in front of a cached one may take its requests.
        relevant = [
            (None, _Aside()) if _is_picky(context) else (_start(context), cached or context)
            for context, cached in contexts[: last + 1]
        ]
        self._by_start = {
            start: [route for of, route in relevant if of in (start, None)] for start, _ in relevant
        }
        self._elsewhere = self._by_start.get(None, [])
        # What was found for a path and query stays right, unless a route looks at something else.
        self._remembers = all(
            isinstance(route, (_PublishedRoute, _Aside)) or start is not None
            for start, route in relevant
        )
        self._known: KnownPlaces[_Place] = KnownPlaces(_size_of)
        self._heads = [
            context
            for context, cached in contexts
            if cached is None and "HEAD" in (context.methods or ())
        ]

    def find(self, scope: Scope) -> "_Place | None":
        """The cached route that a GET of this path is for, where its answer is kept, and the way.

        There is no address for what only the route can tell.
        """
        key = key_of(scope)
        plain = scope["method"] == "GET" and not scope.get("root_path")
        if plain and (known := self._known.young.get(key) or self._known.find(key)) is not None:
            return known
        if (found := self._search(scope)) is None:
            return None
        route, parameters = found
        address = route.address(parameters, scope["query_string"])
        match = None
        if route.target is not None:
            match = RouteMatch(route.target, scope["path"], parameters)
        place = route, address, match
        if plain and self._remembers and route.is_worth_knowing(address, scope["query_string"]):
            self._known.keep(key, place)
        return place

    def _publish(self, context: RouteContext) -> "_PublishedRoute | None":
        """Check a route, and those of an application that is mounted there."""
        cached = context.endpoint
        refuse_elsewhere(context)
        if isinstance(cached, CachedRoute):
            self.cached.append(cached)
            check(context, cached)
            cached.checked = True
            if not cached.public:
                cached.varies_by = principal_calls(context.dependant)
                cached.renderer.vary_by(header_names(context.dependant))
            return _PublishedRoute(context, cached, self._prerouter.target(context, cached))
        self.uncached.append(cached)
        for inner in _walk(getattr(context, "routes", None) or ()):
            self._publish(inner)
        return None

    def _search(self, scope: Scope) -> "tuple[_PublishedRoute, dict[str, str]] | None":
        """The route, and its path parameters as text."""
        path = _path(scope)
        start = path.partition("/")[2].partition("/")[0]
        get = scope
        for route in self._by_start.get(start, self._elsewhere):
            if isinstance(route, _Aside):
                return None
            if isinstance(route, _PublishedRoute):
                if (match := route.pattern.fullmatch(path)) is None:
                    continue
                if scope["method"] == "HEAD" and any(_takes(head, scope) for head in self._heads):
                    return None
                return route, match.groupdict()
            if get["method"] == "HEAD":
                get = {**scope, "method": "GET"}
            if _takes(route, get):
                return None
        return None


class _PublishedRoute:
    """One cached route, as the middleware sees it."""

    def __init__(self, context: RouteContext, cached: CachedRoute, target: object | None) -> None:
        route_class: Any = type(context.original_route)
        self.target = target
        """The way there past the router, if there is one."""
        self.renderer: ResponseRenderer = cached.renderer
        self.template = context.path_format or ""
        self.pattern = context.path_regex
        self._cached = cached
        self._engine = cached.engine
        self._reader: ArgumentReader | None = None
        self._declared = {
            field.alias for part in tree(context.dependant) for field in part.query_params
        }
        # What a route class adds to an answer it adds to every one.
        is_plain = (
            route_class.get_route_handler is APIRoute.get_route_handler
            and route_class.handle is APIRoute.handle
        )
        if cached.public and is_plain:
            self._reader = reader_for(
                context.dependant,
                context.param_convertors,
                cached.arguments.signature,
                cached.ignored,
            )

    def is_worth_knowing(self, address: EntryKeys | None, query: bytes) -> bool:
        """Whether a request of this kind is likely to come again."""
        if address is None and self._reader is not None:
            return False  # a mistake, of which there are many
        return not query or self._declared.issuperset(
            name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        )

    def address(self, path: dict[str, str], query: bytes) -> EntryKeys | None:
        """Where the answer for these parameters is kept; None if the route has to look at them."""
        if self._reader is None:
            return None
        arguments = self._reader.read(path, query)
        if arguments is None:
            return None
        try:
            return self._cached.address(arguments, None)
        except Exception:  # the tags of values that the route would not have let through
            return None

    async def answer(self, address: EntryKeys, scope: Scope, send: Send) -> bool:
        """Answer if there is a fresh entry; otherwise leave what was read in the scope."""
        cached, engine, kind = self._cached, self._engine, self._cached.kind
        read, now = await engine.peek(kind, address), now_ms()
        entry, outcome = read.entry, read.hit(now)
        if entry is None or outcome is None or read.value is None or read.value.is_error:
            scope[SEEN] = (address.value, read)
            return False
        kind.count(outcome)
        scope[ROUTE_TEMPLATE] = self.template
        ready = cached.renderer.render(
            read.value, outcome, entry, now, conditions(scope["headers"])
        )
        if isinstance(send, ResponseSender) and send.send_raw(ready):
            return True
        # A copy, because whoever is outside of us may add to it.
        headers = ready.headers.copy()
        await send({"type": "http.response.start", "status": ready.status, "headers": headers})
        await send({"type": "http.response.body", "body": ready.body})
        return True


class KnownPlaces(Generic[T]):
    """Two generations: what was asked for since the younger one began survives the older one."""

    def __init__(self, size_of: Callable[[T], int], max_bytes: int = MAX_BYTES) -> None:
        """`size_of` says how many bytes of strings are kept for a place."""
        self.young: dict[Key, T] = {}
        """To be looked at first."""
        self._old: dict[Key, T] = {}
        self._size_of = size_of
        self._max_bytes = max_bytes // 2
        self._bytes = 0

    def find(self, key: Key) -> T | None:
        """What is known, where it is not in `young`."""
        if (place := self._old.pop(key, None)) is not None:
            self.keep(key, place)
        return place

    def keep(self, key: Key, place: T) -> None:
        """Remember a place, unless the request is a long one."""
        path, query = key
        if len(path) + len(query) > _LONGEST:
            return
        self._bytes += _OVERHEAD + getsizeof(path) + getsizeof(query) + self._size_of(place)
        if self._bytes > self._max_bytes:
            self._old, self.young, self._bytes = self.young, {}, 0
        self.young[key] = place


def key_of(scope: Scope) -> Key:
    return scope["path"], scope["query_string"]


_Place = tuple[_PublishedRoute, EntryKeys | None, RouteMatch | None]
"""A cached route, where its answer is kept, and the way to it."""


def _size_of(place: _Place) -> int:
    """Bytes of the strings that are kept for a place."""
    _, address, match = place
    texts: list[str | bytes] = [] if match is None else [*match.params.values()]
    if address is not None:
        texts += (address.value, address.lease, *address.versions, *address.read_keys)
    return sum(map(getsizeof, texts))


def _path(scope: Scope) -> str:
    """The path without the prefix under which the application is mounted, as the router sees it."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if prefix and path.startswith(prefix) and path[len(prefix) :][:1] in ("", "/"):
        return path[len(prefix) :]
    return path


def _walk(routes: Iterable[BaseRoute]) -> Iterator[RouteContext]:
    """The routes in the order in which the router tries them."""
    return iter_route_contexts(list(routes))


def _is_picky(context: RouteContext) -> bool:
    """Whether a route class of the service's own decides which requests the route takes."""
    return not type(context.original_route).matches.__module__.startswith(("starlette", "fastapi"))


def _start(context: RouteContext) -> str | None:
    """The first part of a route's paths, or None if it is not always the same."""
    start = (context.path or "").partition("/")[2].partition("/")[0]
    # A mount at the root and a route for a host have no path.
    return start if context.path and "{" not in start else None


def _takes(route: RouteContext, scope: Scope) -> bool:
    match: Match = route.matches(scope)[0]
    return match is Match.FULL


def _completing(send: Send, sender: ResponseRenderer) -> Send:
    """For whatever a cached route answers, be it an error of one of its dependencies."""

    async def send_complete(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": sender.unknown(message.get("headers", ()))}
        await send(message)

    return send_complete


def _without_body(send: Send) -> Send:
    async def send_head(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head
