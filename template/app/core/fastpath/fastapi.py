"""Serves a cached route that the middleware has found, without FastAPI looking for it again.

Two things that FastAPI does anew for each request, and that come out the same:

* A router tries one route after the other, 2 microseconds each where it was included: with a dozen
  in front that is half as much as all the rest of a plain route. `PreroutedRoute` goes to the route
  that was found. Not for traced requests: FastAPI tells its telemetry the route while it looks.
* FastAPI looks at each dependency: what kind of function it is, what it takes, whether its result
  is there already. That is half the time of a cached route. A `DependencyPlan`, made once, calls
  functions and methods, awaited or in a thread, with single values of the request and what was
  called before. What yields, is wrapped, or takes a body, a model, a list or a value with a
  validator of its own is left to FastAPI, and so is to say what is wrong with a request.

One thing differs: all values are read before the first call. A dependency that replaces the headers
or the path's parameters in the scope changes nothing for those after it.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from enum import Enum
from operator import attrgetter
from types import FunctionType, MethodType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

from fastapi import APIRouter, Request, Response, routing
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts, request_response
from starlette.convertors import Convertor
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache.http.middleware import ROUTE_MATCH, SENDER
from app.core.cache.http.params import is_plain, tree
from app.core.cache.http.response import CachedResponse
from app.core.cache.http.route_table import RouteMatch
from app.core.implementations import Prerouter
from app.core.scope import ROUTE_TEMPLATE

KNOWN = "0.165"
WITHOUT = "cached routes that are not public take nearly twice as long"

Endpoint = Callable[..., Awaitable[Response]]

_GIVEN = "app.cache.given"
"""In the scope, for a moment: what a plan has read of this request, and its sender."""
_TRACED = "fastapi.telemetry"

ParamSource = Callable[[Request], Mapping[str, Any]]

_PATH: ParamSource = attrgetter("path_params")
_QUERY: ParamSource = attrgetter("query_params")
_HEADER: ParamSource = attrgetter("headers")
_COOKIE: ParamSource = attrgetter("cookies")
_TEXT = (str, str | None)
_SINGLE = (str, int, float, bool, UUID, date, datetime, NoneType)

_FIELDS = {
    "path_params", "query_params", "header_params", "cookie_params", "body_params", "dependencies",
    "name", "call", "request_param_name", "websocket_param_name", "http_connection_param_name",
    "response_param_name", "background_tasks_param_name", "security_scopes_param_name",
    "own_oauth_scopes", "parent_oauth_scopes", "use_cache", "path", "scope", "concurrency",
}  # fmt: skip

_USED_OF_ROUTER = ("app", "middleware_stack")
_USED_OF_ROUTE = (
    "app", "dependant", "dependency_overrides_provider", "endpoint", "original_route",
    "param_convertors", "path_format",
)  # fmt: skip

# What a plan knows of a request is a list: the request, the response that dependencies may change,
# what is read of the request, and then the result of each call. Arguments are places in that list.
_REQUEST, _RESPONSE, _READ = 0, 1, 2
Takes = tuple[tuple[str, int], ...]


def is_known() -> bool:
    """Whether FastAPI's dependants have the fields that are known here, no less and no more.

    And whether routes and routers have what is needed of them.
    """
    # What a newer FastAPI knows of a dependency, and nobody here does, may matter.
    if {field.name for field in fields(Dependant)} != _FIELDS:
        return False
    router = APIRouter()
    router.add_api_route("/", _no_response)
    context = next(iter(iter_route_contexts(router.routes)))
    return all(hasattr(router, name) for name in _USED_OF_ROUTER) and all(
        hasattr(context, name) for name in _USED_OF_ROUTE
    )


class RouteTarget:
    """A route that requests can be sent to past the router."""

    def __init__(self, context: RouteContext, endpoint: Endpoint) -> None:
        self.app = _app_of(context, endpoint)
        self.takes_sender = isinstance(self.app, PlannedRoute)
        self.convertors: Mapping[str, Convertor[Any]] = context.param_convertors
        self.scope = {
            "endpoint": context.endpoint,
            "route": context.original_route,
            ROUTE_TEMPLATE: context.path_format,  # that route does not know where it is included
        }
        """What a router adds to the scope, but for the parameters."""


class PreroutedRoute:
    """In front of an application's router: serves what was found, leaves the rest to the router."""

    def __init__(self, router: APIRouter) -> None:
        self._router = router
        self._app = router.middleware_stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match: RouteMatch | None = scope.get(ROUTE_MATCH)
        if (
            match is None
            or scope["type"] != "http"
            or scope["method"] != "GET"
            or scope["path"] != match.path
            or scope.get("root_path")
            or _TRACED in scope
        ):
            if match is not None:
                scope.pop(SENDER, None)
            await self._app(scope, receive, send)
            return
        target: Any = match.target
        if not target.takes_sender:
            scope.pop(SENDER, None)
        convertors = target.convertors
        scope.setdefault("router", self._router)
        scope.update(target.scope)
        scope["path_params"] = {
            name: convertors[name].convert(text) for name, text in match.params.items()
        }
        await target.app(scope, receive, send)


class FastPrerouter(Prerouter):
    """Sends requests to cached routes past the router."""

    def install(self, router: APIRouter) -> None:
        # Unless the router has middleware that comes first.
        if router.middleware_stack == router.app:
            router.middleware_stack = PreroutedRoute(router)

    def target(self, context: RouteContext, endpoint: Endpoint) -> RouteTarget | None:
        # A route class of the service's own has to see the request first.
        route_class: Any = type(context.original_route)
        return RouteTarget(context, endpoint) if route_class.handle is APIRoute.handle else None


def _app_of(context: RouteContext, endpoint: Endpoint) -> ASGIApp:
    """Return what serves a GET of a route, without checking again that it is one."""
    app: ASGIApp = context.app
    route_class: Any = type(context.original_route)
    if (
        route_class.get_route_handler is APIRoute.get_route_handler
        # Sentry, among others, puts its own in this place.
        and routing.get_request_handler.__module__ == routing.__name__
        # Nothing is around it, such as a limit for the size of bodies.
        and getattr(app, "__code__", None) is _BARE
        and can_plan(context.dependant)
    ):
        return PlannedRoute(context, endpoint)
    return app


class PlannedRoute:
    """Does what FastAPI would for a function that returns a response, in half the time."""

    def __init__(self, context: RouteContext, endpoint: Endpoint) -> None:
        self._fastapi: ASGIApp = context.app
        self._provider: Any = context.dependency_overrides_provider
        self._endpoint = endpoint
        self._plan = DependencyPlan(context.dependant)
        self._unchanged = _no_response()
        self._app = request_response(self._respond)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = scope.pop(SENDER, None)
        if getattr(self._provider, "dependency_overrides", None):
            await self._fastapi(scope, receive, send)
            return
        values = self._plan.read(Request(scope, receive, send))
        if values is None:
            await self._fastapi(scope, receive, send)
            return
        scope[_GIVEN] = values, sender
        await self._app(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        values, sender = request.scope.pop(_GIVEN)
        response = _no_response() if self._plan.gives_response else self._unchanged
        answer = await self._endpoint(**await self._plan.solve(values, request, response))
        if isinstance(answer, CachedResponse):
            answer.sender = sender
        return answer


class ParamReader:
    """A value of the request."""

    def __init__(self, source: ParamSource, field: Any) -> None:
        info = field.field_info
        self.source = source
        self.field = field
        """FastAPI's, which validates the value."""
        self.alias: str = field.alias
        self.required: bool = info.is_required()
        # From a header or a query comes text: nothing is to be validated.
        self.is_text = source is not _PATH and info.annotation in _TEXT and not info.metadata


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[..., Any]
    is_async: bool
    takes: Takes


class DependencyPlan:
    """Finds the arguments of one route's function."""

    def __init__(self, dependant: Dependant) -> None:
        """Plan what `dependant` needs, which is one that `can_plan`."""
        self._reads = [ParamReader(*pair) for part in tree(dependant) for pair in _fields(part)]
        self._calls: list[_Call] = []
        self._shared: dict[Any, int] = {}
        self._takes = self._taken_by(dependant)
        self.gives_response = any(
            place == _RESPONSE for call in self._calls for _, place in call.takes
        )
        """Whether a dependency can change the response."""

    def read(self, request: Request) -> list[Any] | None:
        """Return all values of the request, or None if FastAPI has to say what is wrong."""
        values: list[Any] = []
        for one in self._reads:
            value = one.source(request).get(one.alias)
            if value is None:
                if one.required:
                    return None
                value = one.field.default
            elif not one.is_text:
                value, errors = one.field.validate(value)
                if errors:
                    return None
            values.append(value)
        return values

    async def solve(
        self, values: list[Any], request: Request, response: Response
    ) -> dict[str, Any]:
        """Return the arguments by name; `values` are what was read of this request.

        Raises:
            Exception: what a dependency raised.
        """
        known = [request, response, *values]
        for call in self._calls:
            arguments = {name: known[place] for name, place in call.takes}
            if call.is_async:
                known.append(await call.function(**arguments))
            else:
                known.append(await run_in_threadpool(call.function, **arguments))
        return {name: known[place] for name, place in self._takes}

    def _taken_by(self, dependant: Dependant) -> Takes:
        """Return the arguments of a function, after planning the calls that they need."""
        results = [(child.name, self._result_of(child)) for child in dependant.dependencies]
        takes = {name: place for name, place in results if name is not None}
        own = [field for _, field in _fields(dependant)]
        for place, read in enumerate(self._reads, _READ):
            if any(read.field is field for field in own):
                takes[read.field.name] = place
        for name, place in (
            (dependant.http_connection_param_name, _REQUEST),
            (dependant.request_param_name, _REQUEST),
            (dependant.response_param_name, _RESPONSE),
        ):
            if name is not None:
                takes[name] = place
        return tuple(takes.items())

    def _result_of(self, dependant: Dependant) -> int:
        """Plan a call, unless it is one whose result is shared and there already."""
        takes = self._taken_by(dependant)
        key = dependant.call, dependant.scope
        if dependant.use_cache and key in self._shared:
            return self._shared[key]
        assert dependant.call is not None
        self._calls.append(_Call(dependant.call, _is_async(dependant.call) is True, takes))
        place = _READ + len(self._reads) + len(self._calls) - 1
        self._shared.setdefault(key, place)
        return place


def can_plan(dependant: Dependant) -> bool:
    """Whether a plan does for this route's function what FastAPI would."""
    return all(
        _takes_plainly(part) and (part is dependant or _is_async(part.call) is not None)
        for part in tree(dependant)
    )


def _takes_plainly(dependant: Dependant) -> bool:
    """Whether all that a function takes can be had without FastAPI."""
    return not (
        dependant.body_params
        or dependant.websocket_param_name
        or dependant.background_tasks_param_name
        or dependant.security_scopes_param_name
        or dependant.own_oauth_scopes
        or dependant.parent_oauth_scopes
        or dependant.concurrency
    ) and all(_is_single(field) for _, field in _fields(dependant))


def _fields(dependant: Dependant) -> Iterator[tuple[ParamSource, Any]]:
    """Iterate over what one function takes from a request."""
    yield from ((_PATH, field) for field in dependant.path_params)
    yield from ((_QUERY, field) for field in dependant.query_params)
    yield from ((_HEADER, field) for field in dependant.header_params)
    yield from ((_COOKIE, field) for field in dependant.cookie_params)


def _is_single(field: Any) -> bool:
    """Whether FastAPI looks for one value, and its default needs nothing else."""
    info = field.field_info
    if (
        not is_plain(field)
        or info.default_factory is not None
        or info.validate_default
        or field.config
    ):
        return False
    kind = info.annotation
    return all(
        part in _SINGLE
        or get_origin(part) is Literal
        or (isinstance(part, type) and issubclass(part, Enum))
        for part in (get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,))
    )


def _is_async(call: Any) -> bool | None:
    """Whether the result of a call is awaited; None if that cannot be told by a plain look."""
    function = call if isinstance(call, FunctionType | MethodType) else type(call).__call__
    if isinstance(function, MethodType):
        function = function.__func__
    if (
        not isinstance(function, FunctionType)
        or hasattr(call, "__wrapped__")
        or vars(function)  # wrapped, too, or marked as what it does not look like
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        return None
    return inspect.iscoroutinefunction(function)


def _no_response() -> Response:
    """Make the response that dependencies may add headers to."""
    response = Response()
    del response.headers["content-length"]
    response.status_code = None  # type: ignore[assignment]  # as FastAPI has it
    return response


_application: Any = request_response(lambda _: _no_response())
_BARE = _application.__code__
"""Of what FastAPI makes of any handler."""


IMPLEMENTATION = {"prerouter": FastPrerouter()}
