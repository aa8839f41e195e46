"""Adds to the OpenAPI document what FastAPI cannot know of this service's answers."""

from collections.abc import Iterable
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute

from app.core.cache.http import CachedRoute
from app.core.cache.http.params import tree

NEEDS_LOGIN: set[Any] = set()
"""Dependencies that refuse whoever is not logged in; others only look who is."""

_WITH_A_BODY = {
    "400": "The body cannot be read",
    "408": "The body did not arrive in time",
    "413": "The body is too long",
}
_CACHED = {"304": "As the client has it already", "412": "If-Match names another version"}
_SECURED = {"401": "Not authenticated", "403": "Not allowed"}
_ALWAYS = {"503": "The service cannot answer now: try again"}


def complete(schema: dict[str, Any], routes: Iterable[BaseRoute]) -> None:
    """Add the answers that every route of a kind may give, and HEAD where it is answered."""
    _without_input(schema)
    for context in iter_route_contexts(list(routes)):
        path = schema["paths"].get(context.path_format, {})
        for method in sorted(context.methods or ()):
            if (operation := path.get(method.lower())) is not None:
                _complete(operation, method, context)
        if isinstance(context.endpoint, CachedRoute) and (get := path.get("get")) is not None:
            path.setdefault("head", _head(get))


def _complete(operation: dict[str, Any], method: str, context: RouteContext) -> None:
    answers = dict(_ALWAYS)
    if "requestBody" in operation:
        answers |= _WITH_A_BODY
    if isinstance(context.endpoint, CachedRoute):
        answers |= _CACHED
    if operation.get("security"):
        answers |= _SECURED
        if not _needs_login(context.dependant):
            operation["security"] = [{}, *operation["security"]]
    for status, description in answers.items():
        operation["responses"].setdefault(status, {"description": description})


def _needs_login(dependant: Dependant) -> bool:
    calls = [part.call for part in tree(dependant)]
    looks_only = any(getattr(call, "is_optional", False) for call in calls)
    return not looks_only or not NEEDS_LOGIN.isdisjoint(calls)


def _head(get: dict[str, Any]) -> dict[str, Any]:
    """Return the operation of HEAD: that of GET without a body."""
    answers = {
        status: {name: value for name, value in answer.items() if name != "content"}
        for status, answer in get["responses"].items()
    }
    return {**get, "operationId": f"{get['operationId']}_head", "responses": answers}


def _without_input(schema: dict[str, Any]) -> None:
    """Remove what was sent from the answer to an invalid request: ours does not have it."""
    properties = (
        schema.get("components", {}).get("schemas", {}).get("ValidationError", {}).get("properties")
    )
    for name in ("input", "ctx") if properties else ():
        properties.pop(name, None)
