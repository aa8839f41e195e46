"""Which routes of the application are cached."""

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from app.core.cache.http import CachedRoute


def cached_paths(app: FastAPI) -> list[str]:
    """Their paths, with parameters by name: `/items/{item_id}`."""
    return [
        context.path_format or ""
        for context in iter_route_contexts(list(app.routes))
        if isinstance(context.endpoint, CachedRoute)
    ]
