"""Repeating what the database has undone: a deadlock, a conflict, a plan for an older schema."""

import asyncio
import random
from collections.abc import Callable, Coroutine
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


def retry_once(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Repeat a function whose transaction was undone, once, as long as it has committed nothing.

    For functions and methods that are one transaction (`writing`, `reading`) and change nothing
    else: what they did before is done again. Both runs together take no longer than one may take.

    Raises:
        TransactionUndone: it was undone again, or had committed an earlier transaction.
    """

    @wraps(work)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
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
