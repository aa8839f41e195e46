"""What a loader must not hold on to.

A load may go on after the request that started it: other callers wait for it, or it refreshes an
entry in the background. A session or a request is closed by then, and would fail at a time and in a
place that has nothing to do with its cause. So it is refused where the function is decorated.
"""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from fastapi import BackgroundTasks, Response
from fastapi.params import Depends
from starlette.requests import HTTPConnection

_OF_A_REQUEST = (HTTPConnection, Response, BackgroundTasks)
# By name, since not every service has them.
_THEIR_PACKAGES = ("sqlalchemy.", "app.core.")
_SESSIONS = frozenset({"AsyncSession", "AsyncConnection", "Session", "Connection"})


def check_outlives(function: str, hints: Mapping[str, Any]) -> None:
    """Refuse parameters that are closed with the request.

    Raises:
        TypeError: the message names the parameter and the remedy.
    """
    for name, hint in hints.items():
        if name != "return" and _ends_with_request(hint):
            raise TypeError(
                f"{function} takes {name}, which is closed at the end of a request, while a load "
                "may outlive it: give it something that opens its own, such as a repository"
            )


def _ends_with_request(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        inner, *extra = get_args(hint)
        return _ends_with_request(inner) or any(
            isinstance(part, Depends) and yields(part.dependency) for part in extra
        )
    if not isinstance(hint, type):
        return False
    return issubclass(hint, _OF_A_REQUEST) or any(
        base.__module__.startswith(_THEIR_PACKAGES) and base.__name__ in _SESSIONS
        for base in hint.__mro__
    )


def yields(dependency: Any) -> bool:
    """Whether a dependency is one with yield."""
    call = inspect.unwrap(dependency) if callable(dependency) else None
    return inspect.isasyncgenfunction(call) or inspect.isgeneratorfunction(call)
