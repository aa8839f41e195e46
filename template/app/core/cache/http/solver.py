"""Solving a route's dependencies by a plan that is made once, where FastAPI's way has no surprises.

FastAPI looks at each dependency anew for each request: what kind of function it is, what it takes,
whether its result is there already. That is half the time of a cached route, and always comes out
the same. A plan calls functions and methods, awaited or in a thread, with single values of the
request and what was called before. What yields, is wrapped, or takes a body, a model, a list or a
value with a validator of its own is FastAPI's to do, and so is to say what is wrong with a request.

One thing is another: all values are read before the first call. A dependency that replaces the
headers or the path's parameters in the scope changes nothing for those after it.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from enum import Enum
from operator import attrgetter
from types import FunctionType, MethodType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant

from app.core.cache.http.params import is_plain, tree

Place = Callable[[Request], Mapping[str, Any]]

_PATH: Place = attrgetter("path_params")
_QUERY: Place = attrgetter("query_params")
_HEADER: Place = attrgetter("headers")
_COOKIE: Place = attrgetter("cookies")
_TEXT = (str, str | None)
_SINGLE = (str, int, float, bool, UUID, date, datetime, NoneType)

_KNOWN = {
    "path_params", "query_params", "header_params", "cookie_params", "body_params", "dependencies",
    "name", "call", "request_param_name", "websocket_param_name", "http_connection_param_name",
    "response_param_name", "background_tasks_param_name", "security_scopes_param_name",
    "own_oauth_scopes", "parent_oauth_scopes", "use_cache", "path", "scope", "concurrency",
}  # fmt: skip

# What a plan knows of a request is a list: the request, the response that dependencies may change,
# what is read of the request, and then the result of each call. Arguments are places in that list.
_REQUEST, _RESPONSE, _READ = 0, 1, 2
Takes = tuple[tuple[str, int], ...]


class _Read:
    """A value of the request."""

    def __init__(self, place: Place, field: Any) -> None:
        info = field.field_info
        self.place = place
        self.field = field
        """FastAPI's, which validates the value."""
        self.alias: str = field.alias
        self.required: bool = info.is_required()
        # From a header or a query comes text: nothing is to be validated.
        self.is_text = place is not _PATH and info.annotation in _TEXT and not info.metadata


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[..., Any]
    is_async: bool
    takes: Takes


class DependencyPlan:
    """Finds the arguments of one route's function."""

    def __init__(self, dependant: Dependant) -> None:
        """`dependant` is one that `can_plan`."""
        self._reads = [_Read(*pair) for part in tree(dependant) for pair in _fields(part)]
        self._calls: list[_Call] = []
        self._shared: dict[Any, int] = {}
        self._takes = self._taken_by(dependant)
        self.gives_response = any(
            place == _RESPONSE for call in self._calls for _, place in call.takes
        )
        """Whether a dependency can change the response."""

    def read(self, request: Request) -> list[Any] | None:
        """All values of the request, or None if FastAPI should say what is wrong with them."""
        values: list[Any] = []
        for one in self._reads:
            value = one.place(request).get(one.alias)
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
        """The arguments by name; `values` are what was read of this request.

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
        """The arguments of a function; the calls that they need are planned before."""
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
    # What a newer FastAPI knows of a dependency, and nobody here does, may matter.
    return {field.name for field in fields(Dependant)} == _KNOWN and all(
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


def _fields(dependant: Dependant) -> Iterator[tuple[Place, Any]]:
    """What one function takes from a request."""
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
