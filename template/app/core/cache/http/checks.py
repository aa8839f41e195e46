"""What is checked of cached routes at start-up: only then a route is whole."""

from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext
from fastapi.security.base import SecurityBase

from app.core.cache.http.route import CachedRoute
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
    if set(context.methods or ()) - {"GET", "HEAD"}:
        raise UnsafeRoute(f"{where}: only GET can be cached")
    if context.status_code not in (None, 200):
        raise UnsafeRoute(f"{where}: return a Response to have a status other than 200")
    if used := [option for option in _OPTIONS if getattr(context, option)]:
        raise UnsafeRoute(f"{where}: {', '.join(used)} has no effect: return a model that has it")
    for name, dependant in _arguments(context.dependant):
        if any(yields(part.call) for part in _tree(dependant)):
            raise UnsafeRoute(
                f"{where}: its parameter {name} comes from a dependency with yield, which is "
                "closed with the request, and a load may outlive it: let the function open its own"
            )
    if route.public:
        for dependant in _tree(context.dependant):
            if isinstance(dependant.call, SecurityBase):
                raise UnsafeRoute(
                    f"{where} is public and depends on who asks ({type(dependant.call).__name__}): "
                    "a hit would not ask; use vary_by= instead of public=True"
                )
            if dependant.header_params or dependant.cookie_params:
                names = [p.alias for p in (*dependant.header_params, *dependant.cookie_params)]
                raise UnsafeRoute(
                    f"{where} is public and depends on {', '.join(names)}, which is no part of its "
                    "key: use vary_by="
                )


def _tree(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for child in dependant.dependencies:
        yield from _tree(child)


def _arguments(dependant: Dependant) -> Iterator[tuple[str, Dependant]]:
    """The dependencies whose result the function gets; the wrapper's own do not count."""
    for child in dependant.dependencies:
        if child.name is not None and not child.name.startswith("cache_"):
            yield child.name, child
