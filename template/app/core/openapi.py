"""Adds to the OpenAPI document what FastAPI cannot know of this service's answers."""

import json
from collections.abc import Iterable
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.encoders import jsonable_encoder
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.security.base import SecurityBase
from starlette.routing import BaseRoute

from app.core.cache.http import CachedRoute
from app.core.cache.http.params import tree
from app.core.problems import MEDIA_TYPE

NEEDS_LOGIN: set[Any] = set()
"""Dependencies that refuse whoever is not logged in; others only look who is."""

_WITH_A_BODY = {
    "408": "The body did not arrive in time",
    "413": "The body is too long",
}
_CACHED = {"304": "As the client has it already", "412": "If-Match names another version"}
_SECURED = {"401": "Not authenticated", "403": "Not allowed"}
_ALWAYS = {
    "400": "The request cannot be read",
    "500": "A mistake of the service",
    "503": "The service cannot answer now: try again",
}

_PROBLEM: dict[str, Any] = {
    "title": "ProblemDetails",
    "description": "What went wrong (RFC 9457). A kind of problem may have more members.",
    "type": "object",
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "description": "The kind of problem; about:blank says no more than the status",
        },
        "title": {"type": "string", "description": "A few words on the kind"},
        "status": {"type": "integer", "description": "The status of the answer"},
        "detail": {"type": "string", "description": "What went wrong this time"},
    },
    "required": ["type", "title", "status"],
}
_MISTAKE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "in": {"type": "string", "enum": ["body", "path", "query", "header", "cookie"]},
        "pointer": {"type": "string", "description": "A JSON pointer to the value in there"},
        "detail": {"type": "string", "description": "What is wrong with it"},
        "type": {"type": "string", "description": "The same for programs"},
    },
    "required": ["in", "pointer", "detail", "type"],
}
_INVALID: dict[str, Any] = {
    **_PROBLEM,
    "title": "ValidationProblemDetails",
    "description": "What is wrong with a request",
    "properties": {**_PROBLEM["properties"], "errors": {"type": "array", "items": _MISTAKE}},
}
_OF_FASTAPI = ("HTTPValidationError", "ValidationError")


def complete(schema: dict[str, Any], routes: Iterable[BaseRoute]) -> None:
    """Add the answers that every route of a kind may give, and HEAD where it is answered."""
    schemes = schema.get("components", {}).get("securitySchemes", {})
    for context in iter_route_contexts(list(routes)):
        path = schema["paths"].get(context.path_format, {})
        for method in sorted(context.methods or ()):
            if (operation := path.get(method.lower())) is not None:
                _complete(operation, method, context)
                _show_alternatives(operation, context.dependant, schemes)
        if isinstance(context.endpoint, CachedRoute) and (get := path.get("get")) is not None:
            path.setdefault("head", _head(get))
    _replace_schemas(schema)


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
    for status, answer in operation["responses"].items():
        if status[0] in "45":
            _make_problem(answer)


def _show_alternatives(
    operation: dict[str, Any], dependant: Dependant, schemes: dict[str, Any]
) -> None:
    """Put those schemes in the place of one that stands for them, each of which suffices."""
    for part in tree(dependant):
        alternatives: list[SecurityBase] = getattr(part.call, "alternatives", [])
        if alternatives:
            name = getattr(part.call, "scheme_name", "")
            names = [scheme.scheme_name for scheme in alternatives]
            others = [
                need for need in operation["security"] if need.keys().isdisjoint((name, *names))
            ]
            operation["security"] = [*others, *({each: []} for each in names)]
            schemes.pop(name, None)
        for scheme in alternatives:
            schemes[scheme.scheme_name] = jsonable_encoder(
                scheme.model, by_alias=True, exclude_none=True
            )


def _make_problem(answer: dict[str, Any]) -> None:
    """Say what an error looks like, unless the route does."""
    name = "ProblemDetails"
    if "content" in answer:
        schema = answer["content"].get("application/json", {}).get("schema", {})
        if schema.get("$ref") != _reference("HTTPValidationError"):
            return
        name = "ValidationProblemDetails"
    answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": _reference(name)}}}


def _reference(name: str) -> str:
    return f"#/components/schemas/{name}"


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


def _replace_schemas(schema: dict[str, Any]) -> None:
    """Put our schemas of errors in the place of FastAPI's, which nothing has any more."""
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for name in _OF_FASTAPI:
        if f'"{_reference(name)}"' not in json.dumps(schema):
            schemas.pop(name, None)
    schemas |= {"ProblemDetails": _PROBLEM, "ValidationProblemDetails": _INVALID}
