"""What is checked of cached routes at start-up: only then a route is whole."""

from typing import Any

from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.responses import JSONResponse
from fastapi.routing import RouteContext
from fastapi.security.base import SecurityBase

from app.core.cache.http.parameters import tree
from app.core.cache.http.route import CachedRoute
from app.core.cache.http.signature import PRINCIPAL
from app.core.cache.outliving import yields

_OPTIONS = (
    "response_model_include",
    "response_model_exclude",
    "response_model_exclude_unset",
    "response_model_exclude_defaults",
    "response_model_exclude_none",
)


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
        for argument in arguments:
            if any(part.request_param_name for part in tree(argument)):
                raise UnsafeRoute(
                    f"{where} is public, and its parameter {argument.name} is made from the whole "
                    "request, of which a hit knows path and query only: use vary_by="
                )
        for part in tree(dependant):
            if isinstance(part.call, SecurityBase):
                raise UnsafeRoute(
                    f"{where} is public and depends on who asks ({type(part.call).__name__}): "
                    "a hit would not ask; use vary_by= instead of public=True"
                )
        if names := _names(dependant, "header", "cookie"):
            raise UnsafeRoute(
                f"{where} is public and depends on {_listed(names)}, by which a hit would not be "
                "chosen: use vary_by="
            )


def header_names(dependant: Dependant) -> set[str]:
    """The request headers that a route and its dependencies declare, security schemes included."""
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
    """The dependency that says who asks, and all that it depends on."""
    principals = (child for child in dependant.dependencies if child.name == PRINCIPAL)
    return frozenset(part.call for principal in principals for part in tree(principal))


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
    if route.producer.returns_response:
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


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
