"""Repeating what the database has undone: a deadlock, a conflict, a plan for an older schema."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from app.database.errors import DatabaseUnavailable

P = ParamSpec("P")
T = TypeVar("T")

_PAUSE = (0.005, 0.02)
"""Seconds before a function is repeated, at random, so that two do not meet again."""


class TransactionUndone(DatabaseUnavailable):
    """The database has rolled the transaction back, and would take it if it came again."""

    ends_at = float("inf")
    """When the patience with this transaction ends, in the time of the event loop."""


@dataclass(slots=True)
class _Attempt:
    """One run of a function that may be repeated."""

    within: "_Attempt | None"
    ends_at: float = float("inf")
    committed: bool = False


_attempt: ContextVar[_Attempt | None] = ContextVar("attempt", default=None)
# The databases that each task is changing. By task: what runs in the background, such as a load of
# the cache, is not part of the transaction in which it was started.
_writing: dict[asyncio.Task[Any] | None, list[object]] = {}


def retry_once(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Repeat a function whose transaction was undone, once, as long as it has committed nothing.

    For functions and methods that are one transaction (`writing`, `reading`) and change nothing
    else: what they did before is done again. Both runs together take no longer than one may take.
    Within a transaction nothing is repeated: the whole of it was undone.

    Raises:
        TransactionUndone: it was undone again, or had committed an earlier transaction.
    """

    @wraps(work)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if asyncio.current_task() in _writing:
            return await work(*args, **kwargs)
        attempt = _Attempt(_attempt.get())
        token = _attempt.set(attempt)
        try:
            return await work(*args, **kwargs)
        except TransactionUndone as undone:
            if attempt.committed:
                raise
            attempt.ends_at = undone.ends_at
            # The one that goes on needs what this one held: it has a moment to take it.
            await asyncio.sleep(random.uniform(*_PAUSE))
            return await work(*args, **kwargs)
        finally:
            _attempt.reset(token)

    return run


@contextmanager
def changing(database: object) -> Iterator[None]:
    """Note that this task changes the database, until the end of the body.

    Raises:
        RuntimeError: it does already. The inner transaction would be one of its own: committed
            though the outer one fails, or waiting for it for ever.
    """
    task = asyncio.current_task()
    under_way = _writing.setdefault(task, [])
    if database in under_way:
        raise RuntimeError(
            "writing() within writing(), which would be another transaction: "
            "give the session of the outer one to what has to be part of it"
        )
    under_way.append(database)
    try:
        yield
    finally:
        under_way.remove(database)
        if not under_way:
            del _writing[task]


def ends_at(latest: float) -> float:
    """When a transaction has to end, that may last until `latest` for itself."""
    attempt = _attempt.get()
    while attempt is not None:
        latest = min(latest, attempt.ends_at)
        attempt = attempt.within
    return latest


def note_commit() -> None:
    """From now on, repeating the functions that are under way would do something twice."""
    attempt = _attempt.get()
    while attempt is not None:
        attempt.committed = True
        attempt = attempt.within
