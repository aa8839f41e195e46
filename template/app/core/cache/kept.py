"""How long a value is kept, where that depends on the value: a loader says so with what it returns.

    async def load_rate(currency: str) -> Kept[Rate]:
        rate = await bank.rate(currency)
        if rate.is_estimate:
            return do_not_keep(rate)
        return keep(rate, ttl=rate.valid_for)

Callers get the value, never what is around it. What is not kept goes to all who wait for it in this
process. It leaves a mark of a few bytes, by which other processes know not to wait for each other:
what they would wait for is not kept either (Varnish calls it hit-for-miss).
"""

import math
from dataclasses import dataclass
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

from app.core.cache.options import LONGEST_SECONDS

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Kept(Generic[T_co]):
    """What a loader returns in place of a value; made by `keep` and `do_not_keep`."""

    value: T_co
    ttl: float | None
    """How long the value is fresh, in seconds; 0: it is not kept; None: as the policy says."""


def keep(value: T, *, ttl: float | None = None) -> Kept[T]:
    """Return a value that is fresh for `ttl` seconds, or for as long as the policy says.

    The policy's `jitter` makes that a little shorter, and never longer. Its stale times become
    shorter in the same proportion as the ttl, and never longer. The ttl goes before `negative_ttl`.

    Raises:
        ValueError: the ttl is not more than 0 seconds, or more than ten years.
        TypeError: the ttl is no number, or the value says already how long it is kept.
    """
    if ttl is not None:
        if isinstance(ttl, bool) or not isinstance(ttl, int | float):
            raise TypeError(f"ttl is a number of seconds, not {ttl!r}")
        if math.isnan(ttl) or ttl <= 0:
            raise ValueError(
                f"ttl must be more than 0 seconds, not {ttl!r}: what is not to be kept is returned "
                "with do_not_keep(value)"
            )
        if ttl > LONGEST_SECONDS:
            raise ValueError(
                f"ttl must be {LONGEST_SECONDS} seconds (ten years) at most, not {ttl!r}"
            )
    return _kept(value, ttl)


def do_not_keep(value: T) -> Kept[T]:
    """Return a value to those who wait for it, and keep it for nobody else.

    An older value goes, too: it has been overtaken.

    Raises:
        TypeError: the value says already how long it is kept.
    """
    return _kept(value, 0)


def _kept(value: T, ttl: float | None) -> Kept[T]:
    if isinstance(value, Kept):
        raise TypeError(f"how long a value is kept is said once, and was said already: {value!r}")
    return Kept(value, ttl)


def plain(result: Any) -> Any:
    """Return the value in what a loader has returned."""
    return result.value if isinstance(result, Kept) else result


def ttl_of(result: Any) -> float | None:
    """Return the ttl that a loader has given its value; see `Kept.ttl`."""
    return result.ttl if isinstance(result, Kept) else None


def plain_type(returns: Any) -> Any:
    """Return the type of the values of a loader that is annotated to return `returns`."""
    if returns is Kept:
        return Any
    origin, parts = get_origin(returns), get_args(returns)
    if origin is Kept:
        return parts[0]
    if origin in (Union, UnionType) and (values := tuple(map(plain_type, parts))) != parts:
        return reduce(or_, values)
    return returns
