"""What a loader must not hold on to.

A load may go on after the request that started it: other callers wait for it, or it refreshes an
entry in the background. A session or a request is closed by then, and would fail at a time and in a
place that has nothing to do with its cause. So it is refused where the function is decorated. What
a loader has captured that is given with a call is looked at when it is needed, at each miss.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, get_args, get_origin

from fastapi import BackgroundTasks, Response
from fastapi.params import Depends
from starlette.requests import HTTPConnection

_OF_A_REQUEST = (HTTPConnection, Response, BackgroundTasks)
# By name, since not every service has them.
_THEIR_PACKAGES = ("sqlalchemy.", "app.core.")
_SESSIONS = frozenset({"AsyncSession", "AsyncConnection", "Session", "Connection"})
_MAX_ARGUMENTS = 32


def check_parameters(function: str, hints: Mapping[str, Any]) -> None:
    """Refuse parameters that are closed with the request.

    Raises:
        TypeError: the message names the parameter and the remedy.
    """
    for name, hint in hints.items():
        if name != "return" and _ends_with_request(hint):
            raise TypeError(
                f"{function} takes {name}, which is closed at the end of a request, while a load "
                f"may outlive it: {_remedy(hint)}"
            )


def _remedy(hint: Any) -> str:
    if isinstance(hint, type) and issubclass(hint, _OF_A_REQUEST):
        return (
            "take what it needs as parameters. What has to run for each request, such as the "
            "decorator of a rate limit, is a dependency of the route: dependencies=[Depends(...)]"
        )
    return "give it something that opens its own, such as a repository"


def check_captured(policy: str, loader: Callable[..., Any]) -> None:
    """Refuse a loader that holds a database session, directly or in an object or argument.

    Raises:
        TypeError: the message names the policy and the remedy.
    """
    for held in _held(loader):
        inside = getattr(held, "__dict__", {})
        for value in (held, *(inside.values() if isinstance(inside, dict) else ())):
            if _is_session(type(value)):
                raise TypeError(
                    f"the loader of {policy!r} has captured a {type(value).__name__}, which is "
                    "closed at the end of a request, while a load may outlive it: let the loader "
                    "open its own"
                )


def _held(loader: Any) -> Iterator[Any]:
    """Yield what a function, a method or a partial brings along."""
    yield getattr(loader, "__self__", None)
    if isinstance(loader, functools.partial):
        yield from (*loader.args, *loader.keywords.values())
        yield from _held(loader.func)
    for cell in getattr(loader, "__closure__", None) or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        match value:
            case dict():  # arguments by name; of a large collection not all is looked at
                yield from islice(value.values(), _MAX_ARGUMENTS)
            case tuple():
                yield from islice(value, _MAX_ARGUMENTS)
            case _:
                yield value


def _ends_with_request(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        inner, *extra = get_args(hint)
        return _ends_with_request(inner) or any(
            isinstance(part, Depends) and yields(part.dependency) for part in extra
        )
    if not isinstance(hint, type):
        return False
    return issubclass(hint, _OF_A_REQUEST) or _is_session(hint)


def _is_session(type_: type[Any]) -> bool:
    return any(
        base.__module__.startswith(_THEIR_PACKAGES) and base.__name__ in _SESSIONS
        for base in type_.__mro__
    )


def yields(dependency: Any) -> bool:
    """Return whether a dependency is one with yield."""
    call = inspect.unwrap(dependency) if callable(dependency) else None
    return inspect.isasyncgenfunction(call) or inspect.isgeneratorfunction(call)
