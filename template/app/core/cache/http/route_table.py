"""The routes of an application, such that the one that a request is for is found fast."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from sys import getsizeof
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from app.core.cache.http.checks import check, header_names, principal_calls, refuse_elsewhere
from app.core.cache.http.params import ArgumentReader, reader_for, tree
from app.core.cache.http.route import CachedRoute
from app.core.cache.keys import EntryKeys
from app.core.implementations import Prerouter

MAX_MEMO_BYTES = 8 * 1024 * 1024
"""Memory of a process for what was found: paths and queries are what strangers choose."""

_LONGEST = 512
"""Characters of a path and bytes of a query that are remembered."""
_OVERHEAD = 1_000
"""Bytes of what is remembered beside the strings."""

Key = tuple[str, bytes]
"""A path and a query."""
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


Destination = tuple["PublishedRoute", EntryKeys | None, RouteMatch | None]
"""A cached route, where its response is kept, and the way to it past the router, if there is one.

There are no keys where only the route can tell them."""


class _Aside:
    """In place of a route of which only the router knows what it takes."""


class RouteTable:
    """Finds the cached route that the router would choose."""

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
            isinstance(route, (PublishedRoute, _Aside)) or start is not None
            for start, route in relevant
        )
        self._memo: RouteMemo[Destination] = RouteMemo(_size_of)
        self._heads = [
            context
            for context, cached in contexts
            if cached is None and "HEAD" in (context.methods or ())
        ]

    def find(self, scope: Scope) -> Destination | None:
        """Return where a GET or HEAD belongs, or None if that is no cached route."""
        key = scope["path"], scope["query_string"]
        plain = scope["method"] == "GET" and not scope.get("root_path")
        if plain and (known := self._memo.young.get(key) or self._memo.find(key)) is not None:
            return known
        if (found := self._search(scope)) is None:
            return None
        route, params = found
        path, query = key
        keys = route.entry_keys(params, query)
        match = RouteMatch(route.target, path, params) if route.target is not None else None
        destination = route, keys, match
        if plain and self._remembers and route.is_worth_remembering(keys, query):
            self._memo.keep(key, destination)
        return destination

    def _publish(self, context: RouteContext) -> "PublishedRoute | None":
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
            return PublishedRoute(context, cached, self._prerouter.target(context, cached))
        self.uncached.append(cached)
        for inner in _walk(getattr(context, "routes", None) or ()):
            self._publish(inner)
        return None

    def _search(self, scope: Scope) -> "tuple[PublishedRoute, dict[str, str]] | None":
        """Return the route, and its path parameters as text."""
        path = _path(scope)
        start = path.partition("/")[2].partition("/")[0]
        get = scope
        for route in self._by_start.get(start, self._elsewhere):
            if isinstance(route, _Aside):
                return None
            if isinstance(route, PublishedRoute):
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


class PublishedRoute:
    """One cached route, as the middleware sees it."""

    def __init__(self, context: RouteContext, cached: CachedRoute, target: object | None) -> None:
        route_class: Any = type(context.original_route)
        self.target = target
        """The way there past the router, if there is one."""
        self.template = context.path_format or ""
        self.pattern = context.path_regex
        self.cached = cached
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

    def is_worth_remembering(self, keys: EntryKeys | None, query: bytes) -> bool:
        """Whether a request of this kind is likely to come again."""
        if keys is None and self._reader is not None:
            return False  # a mistake, of which there are many
        return not query or self._declared.issuperset(
            name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        )

    def entry_keys(self, path: dict[str, str], query: bytes) -> EntryKeys | None:
        """Return where the response is kept; None if the route has to look at the parameters."""
        if self._reader is None:
            return None
        arguments = self._reader.read(path, query)
        if arguments is None:
            return None
        try:
            return self.cached.entry_keys(arguments, None)
        except Exception:  # the tags of values that the route would not have let through
            return None


class RouteMemo(Generic[T]):
    """Remembers what was found, in two generations.

    What was asked for since the younger one began survives the older one.
    """

    def __init__(self, size_of: Callable[[T], int], max_bytes: int = MAX_MEMO_BYTES) -> None:
        """Count `max_bytes` with `size_of`: the bytes of strings that are kept for a value."""
        self.young: dict[Key, T] = {}
        """To be looked at first."""
        self._old: dict[Key, T] = {}
        self._size_of = size_of
        self._max_bytes = max_bytes // 2
        self._bytes = 0

    def find(self, key: Key) -> T | None:
        """Return what is remembered, where it is not in `young`."""
        if (value := self._old.pop(key, None)) is not None:
            self.keep(key, value)
        return value

    def keep(self, key: Key, value: T) -> None:
        """Remember a value, unless the request is a long one."""
        path, query = key
        if len(path) + len(query) > _LONGEST:
            return
        self._bytes += _OVERHEAD + getsizeof(path) + getsizeof(query) + self._size_of(value)
        if self._bytes > self._max_bytes:
            self._old, self.young, self._bytes = self.young, {}, 0
        self.young[key] = value


def _size_of(destination: Destination) -> int:
    """Return the bytes of the strings that are kept for a destination."""
    _, keys, match = destination
    texts: list[str | bytes] = [] if match is None else [*match.params.values()]
    if keys is not None:
        texts += (keys.value, keys.lease, *keys.versions, *keys.read_keys)
    return sum(map(getsizeof, texts))


def _path(scope: Scope) -> str:
    """Return the path as the router sees it: without the prefix of a mounted application."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if prefix and path.startswith(prefix) and path[len(prefix) :][:1] in ("", "/"):
        return path[len(prefix) :]
    return path


def _walk(routes: Iterable[BaseRoute]) -> Iterator[RouteContext]:
    """Iterate over the routes in the order in which the router tries them."""
    return iter_route_contexts(list(routes))


def _is_picky(context: RouteContext) -> bool:
    """Whether a route class of the service's own decides which requests the route takes."""
    return not type(context.original_route).matches.__module__.startswith(("starlette", "fastapi"))


def _start(context: RouteContext) -> str | None:
    """Return the first part of a route's paths, or None if it is not always the same."""
    start = (context.path or "").partition("/")[2].partition("/")[0]
    # A mount at the root and a route for a host have no path.
    return start if context.path and "{" not in start else None


def _takes(route: RouteContext, scope: Scope) -> bool:
    match: Match = route.matches(scope)[0]
    return match is Match.FULL
