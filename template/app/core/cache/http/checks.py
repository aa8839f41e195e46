"""Checks of cached routes at start, when a route and its application are complete."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import structlog
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.responses import JSONResponse
from fastapi.routing import RouteContext
from fastapi.security.base import SecurityBase

from app.core.cache.http.params import PRINCIPAL, tree
from app.core.cache.http.route import CACHED_AS, CachedRoute
from app.core.cache.loader_safety import yields

_OPTIONS = (
    "response_model_include",
    "response_model_exclude",
    "response_model_exclude_unset",
    "response_model_exclude_defaults",
    "response_model_exclude_none",
)


# Inside the cache, none of these would see a hit. Our own middleware is made for its place.
_PASSED_BY = ("starlette.middleware.", "fastapi.middleware.", "uvicorn.middleware.")

log = structlog.get_logger(__name__)


class UnsafeRoute(TypeError):
    """A cached route that would answer wrongly."""


def check(context: RouteContext, route: CachedRoute) -> None:
    """Refuse what a cached response cannot keep its promises with.

    Raises:
        UnsafeRoute: the message names the route and the remedy.
    """
    where = f"the cached route {context.path}"
    _check_response(where, context, route)
    dependant: Dependant = context.dependant
    arguments = [child for child in dependant.dependencies if _is_argument(child)]
    for argument in arguments:
        if any(yields(part.call) for part in tree(argument)):
            raise UnsafeRoute(
                f"{where}: its parameter {argument.name} comes from a dependency with yield, which "
                "is closed with the request, and a load may outlive it: let the function open its "
                "own"
            )
    known = {field.alias for field in (*dependant.path_params, *dependant.query_params)}
    for argument in arguments:
        if argument.name in route.ignored and (
            unknown := _names(argument, "path", "query") - known
        ):
            raise UnsafeRoute(
                f"{where} ignores {argument.name}, which depends on {_listed(unknown)}: take that "
                "as a parameter, so that it is part of the key"
            )
    if route.public:
        _check_public(where, dependant, route)
    else:
        _check_vary_by(where, dependant)


def refuse_elsewhere(context: RouteContext) -> None:
    """Refuse a cached function that is served in a way that does not cache it.

    Raises:
        UnsafeRoute: the message names the route and the remedy.
    """
    endpoint, where = context.endpoint, f"the route {context.path}"
    dependant: Dependant | None = getattr(context, "dependant", None)
    served = endpoint or getattr(context.original_route, "app", None)
    if isinstance(served, CachedRoute):
        if dependant is None or not context.methods:
            raise UnsafeRoute(
                f"{where} serves {served.arguments.name}, which is cached, past FastAPI: add it "
                "with @router.get(...) or add_api_route(...)"
            )
    else:
        if inner := next((f for f in _wrapped(served) if isinstance(f, CachedRoute)), None):
            raise UnsafeRoute(
                f"{where}: a decorator is around {inner.arguments.name}, which is cached. Put it "
                "below the cache's, if it belongs to the answer. What has to run for each request, "
                "such as a rate limit, is a dependency: dependencies=[Depends(...)]"
            )
    for part in tree(dependant) if dependant is not None else ():
        if part is not dependant and isinstance(part.call, CachedRoute):
            raise UnsafeRoute(
                f"{where} depends on {part.call.arguments.name}, which is cached as a route: let "
                "both call a function with @policy.cached()"
            )


def check_unserved(served: Collection[CachedRoute], endpoints: Collection[Any]) -> None:
    """Warn of cached functions that are no routes of this application.

    Raises:
        UnsafeRoute: `endpoints`, which are not cached, have one: the decorators are in disorder.
    """
    for endpoint in endpoints:
        route: CachedRoute | None = getattr(endpoint, CACHED_AS, None)
        if route is not None and not route.checked:
            raise UnsafeRoute(
                f"{route.arguments.name} is cached, and no route serves it from there: the cache's "
                "decorator goes below @router.get(...), not above it"
            )
    for declared in {id(route.declared): route.declared for route in served}.values():
        for route in declared:
            if not route.checked:
                name = route.arguments.name
                log.warning("cache.unserved_route", function=name, why="cached, but no route")


def check_middleware(inside: Iterable[Any]) -> None:
    """Warn of middleware that hits do not pass."""
    names = [
        cls.__name__ for cls in inside if getattr(cls, "__module__", "").startswith(_PASSED_BY)
    ]
    if names:
        log.warning(
            "cache.middleware_inside",
            middleware=names,
            why="hits do not pass it: add it after HttpCacheMiddleware, so that it is outside",
        )


def compresses(middleware: Any) -> bool:
    """Whether a class of middleware looks like one that compresses responses."""
    name = getattr(middleware, "__name__", "").lower()
    return any(word in name for word in ("gzip", "brotli", "zstd", "compress"))


def header_names(dependant: Dependant) -> set[str]:
    """Return the request headers that a route and its dependencies declare, also for security."""
    names = _names(dependant, "header")
    for part in tree(dependant):
        if not isinstance(part.call, SecurityBase):
            continue
        scheme = part.call.model
        if not isinstance(scheme, APIKey):
            names.add("authorization")
        elif scheme.in_ is APIKeyIn.header:
            names.add(scheme.name)
    return names


def principal_calls(dependant: Dependant) -> frozenset[Any]:
    """Return the dependency that says who asks, and all that it depends on."""
    principals = (child for child in dependant.dependencies if child.name == PRINCIPAL)
    return frozenset(part.call for principal in principals for part in tree(principal))


def _check_public(where: str, dependant: Dependant, route: CachedRoute) -> None:
    """Refuse what a response depends on that is no part of a public route's key."""
    if names := _context_variables(inspect.unwrap(route)):
        raise UnsafeRoute(
            f"{where} is public and reads the context variable {_listed(names)}: its answer is "
            "for everybody, and made outside of any request; use vary_by=, or a parameter"
        )
    for part in tree(dependant):
        if isinstance(part.call, SecurityBase):
            raise UnsafeRoute(
                f"{where} is public and depends on who asks ({type(part.call).__name__}): "
                "a hit would not ask; use vary_by= instead of public=True"
            )
    for argument in filter(_is_argument, dependant.dependencies):
        if any(
            part.request_param_name or part.http_connection_param_name for part in tree(argument)
        ):
            raise UnsafeRoute(
                f"{where} is public, and its parameter {argument.name} is made from the whole "
                "request, of which a hit knows path and query only: use vary_by="
            )
    if names := _names(dependant, "header", "cookie"):
        raise UnsafeRoute(
            f"{where} is public and depends on {_listed(names)}, by which a hit would not be "
            "chosen: use vary_by="
        )


def _check_vary_by(where: str, dependant: Dependant) -> None:
    """Refuse a route that knows more of who asks than its entries are told apart by."""
    known = principal_calls(dependant)
    for part in tree(dependant):
        remedy = getattr(part.call, "must_vary", None)
        if remedy is not None and part.call not in known:
            raise UnsafeRoute(f"{where} depends on who asks, and its vary_by= does not: {remedy}")


def _check_response(where: str, context: RouteContext, route: CachedRoute) -> None:
    if set(context.methods or ()) - {"GET", "HEAD"}:
        raise UnsafeRoute(f"{where}: only GET can be cached")
    if context.status_code not in (None, 200):
        raise UnsafeRoute(f"{where}: return a Response to have a status other than 200")
    used = [option for option in _OPTIONS if getattr(context, option)]
    if not context.response_model_by_alias:
        used.append("response_model_by_alias")
    if used:
        raise UnsafeRoute(f"{where}: {', '.join(used)} has no effect: return a model that has it")
    if route.builder.returns_response:
        return
    if not _is_same(context.response_model, route.returns):
        raise UnsafeRoute(
            f"{where}: its response_model is not what {route.arguments.name} says it returns, and "
            "would not be applied: annotate the function with it"
        )
    response_class = context.response_class
    if not isinstance(response_class, DefaultPlaceholder) and response_class is not JSONResponse:
        raise UnsafeRoute(
            f"{where}: {response_class.__name__} would not be used: return one, and say so in the "
            "annotation"
        )


def _is_same(response_model: Any, returns: Any) -> bool:
    nothing = (None, type(None))
    return bool(response_model == returns) or (response_model in nothing and returns in nothing)


def _is_argument(child: Dependant) -> bool:
    """Whether the function gets its result; the wrapper's own does not count."""
    return child.name is not None and child.name != PRINCIPAL


def _names(dependant: Dependant, *places: str) -> set[str]:
    fields = (
        field
        for part in tree(dependant)
        for place in places
        for field in getattr(part, f"{place}_params")
    )
    return {field.alias for field in fields}


def _wrapped(function: Any) -> Iterator[Any]:
    while (function := getattr(function, "__wrapped__", None)) is not None:
        yield function


def _context_variables(function: Callable[..., Any]) -> set[str]:
    """Return the names of the context variables that a function uses itself."""
    try:
        known = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        return set()
    named = {**known.globals, **known.nonlocals}
    return {name for name, value in named.items() if isinstance(value, ContextVar)}


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
