"""The methods that a path has, for the answer to one that it has not.

RFC 9110, 15.5.6, has a 405 list all of them. Starlette lists those of the first route of the path,
and usually each method is a route of its own.
"""

from inspect import isawaitable

from fastapi import FastAPI, Request, Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.core.cache.http import CachedRoute


async def answer_method_not_allowed(request: Request, error: HTTPException) -> Response:
    """For status 405: complete `Allow`, and answer as the application answers other statuses."""
    given = (error.headers or {}).get("Allow", "").split(", ")
    methods = {*given, *_methods(request)} - {""}
    error.headers = {**(error.headers or {}), "Allow": ", ".join(sorted(methods))}
    handlers = request.app.exception_handlers
    handler = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    answer = handler(request, error)
    response: Response = await answer if isawaitable(answer) else answer
    return response


def _methods(request: Request) -> set[str]:
    """Of the routes that would take the path with another method."""
    app: FastAPI = request.app
    scope = dict(request.scope)
    # What is mounted has made its own place the root.
    scope["root_path"] = scope.get("app_root_path", scope.get("root_path", ""))
    found = set()
    for route in iter_route_contexts(app.routes):
        if route.matches(scope)[0] is Match.PARTIAL:
            found |= route.methods or set()
            if isinstance(route.endpoint, CachedRoute):
                found.add("HEAD")
    return found
