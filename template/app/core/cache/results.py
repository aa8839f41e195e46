"""What a read found, and what its caller gets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import time
from typing import Any

from app.core.cache.entry import Entry, Miss


class Outcome(StrEnum):
    """How a read was answered."""

    NEAR = "near"
    HIT = "hit"
    STALE = "stale"
    MISS = "miss"
    STALE_ERROR = "stale_error"


@dataclass(slots=True)
class Seen:
    """What a read found: at most one of `entry` (usable, perhaps stale) and `reason` is set."""

    entry: Entry | None
    value: Any
    reason: Miss | None
    id: bytes
    """The id of what is stored, usable or not; empty for nothing."""
    versions: Sequence[bytes | None] = ()
    """The current versions of the policy and the tags, in the order of the address."""
    online: bool = True
    near: bool = False
    """It came from this process's memory."""
    at: float = field(kw_only=True)
    """When it was asked for, by `monotonic`: it knows of every invalidation from before."""


@dataclass(slots=True)
class Loaded:
    """A value and where it came from; times in milliseconds since 1970."""

    value: Any
    outcome: Outcome
    created: int
    fresh_until: int
    as_of: float = 0
    """The moment, by `monotonic`, for which it is right: no invalidation from before is missing."""


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time() * 1000)


def served(seen: Seen, entry: Entry, outcome: Outcome) -> Loaded:
    """A stored value, on its way to a caller."""
    return Loaded(seen.value, outcome, entry.created, entry.fresh_until, seen.at)


def fallback(seen: Seen) -> Loaded | None:
    """The old value, where it may be served because there is no new one."""
    entry = seen.entry
    if entry is not None and now_ms() < max(entry.stale_until, entry.error_until):
        return served(seen, entry, Outcome.STALE_ERROR)
    return None
