"""The result of a read, and the value returned to the caller."""

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
class ReadResult:
    """The result of a read: an `entry` that is usable, perhaps stale, or why there is none."""

    entry: Entry | None
    value: Any
    miss_reason: Miss | None
    id: bytes
    """The id of what is stored, usable or not; empty for nothing."""
    versions: Sequence[bytes | None] = ()
    """The current versions of the policy and the tags, in the order of the keys."""
    online: bool = True
    near: bool = False
    """It came from this process's memory."""
    at: float = field(kw_only=True)
    """When it was asked for, by `monotonic`: it knows of every invalidation from before."""

    def outcome(self, now: int) -> Outcome | None:
        """Return how it answers a caller, `now` in ms since 1970; None: it does not."""
        entry = self.entry
        if entry is None or now >= entry.stale_until:
            return None
        if now >= entry.fresh_until:
            return Outcome.STALE
        return Outcome.NEAR if self.near else Outcome.HIT

    def hit(self, now: int) -> Outcome | None:
        """Return `outcome` for an entry that need not be refreshed; None for others."""
        entry = self.entry
        if entry is None or now >= entry.early_refresh_from:
            return None
        return Outcome.NEAR if self.near else Outcome.HIT


@dataclass(slots=True)
class CacheResult:
    """A value and where it came from; times in milliseconds since 1970."""

    value: Any
    outcome: Outcome
    created: int
    fresh_until: int
    as_of: float = 0
    """The moment, by `monotonic`, for which it is right: no invalidation from before is missing."""


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time() * 1000)


def served(read: ReadResult, entry: Entry, outcome: Outcome) -> CacheResult:
    """Return a stored value as the caller gets it."""
    return CacheResult(read.value, outcome, entry.created, entry.fresh_until, read.at)


def fallback(read: ReadResult) -> CacheResult | None:
    """Return the old value, where it may be served because there is no new one."""
    entry = read.entry
    if entry is not None and now_ms() < max(entry.stale_until, entry.error_until):
        return served(read, entry, Outcome.STALE_ERROR)
    return None
