"""The options of a policy, checked when it is declared.

Values whose keys anybody can make up, such as cursors, are kept sparingly: whoever invents keys
would fill the server with values that nobody asks for again, and push out what others need. The
first request for such a key leaves a mark of a few bytes. The second one stores the value, for a
minute or two, within a budget of bytes for each process.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from time import monotonic
from typing import TypedDict

LONGEST_SECONDS = 10 * 365 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOptions:
    """All times in seconds."""

    ttl: float
    """How long an entry is fresh."""
    jitter: float = 0.1
    """The share of `ttl` by which an entry may expire earlier, at random: not all at once."""
    stale_while_revalidate: float = 0
    """How much longer it is served, at once, while it is computed anew in the background."""
    stale_if_error: float = 0
    """How much longer it is served when computing it anew fails."""
    error_patience: float = 1
    """How long callers wait for a load that such an old value can stand in for: then they get that,
    and the load goes on. A database that hangs raises no error for a long time. 0: they never wait;
    as much as `loader_timeout`: as long as it takes."""
    error_throttle: float = 5
    """After a failure that an old entry covered: how long no process tries again."""
    negative_ttl: float | None = None
    """How long "there is none" (a loader's None) is fresh, and at most once more as long stale.
    0: it is not kept; None: it is kept as any other value."""
    early_refresh: float = 1
    """XFetch's beta: how eagerly a popular entry is computed anew before it expires; 0: never."""
    loader_timeout: float = 10
    """After this a loader is cancelled and its callers get a TimeoutError."""
    lease_wait: float = 3
    """How long a caller waits for another process to fill an entry before it loads for itself; once
    more as long if that process dies meanwhile, and another one takes over."""
    compress_from: int = 1024
    """Payloads of this many bytes and more are compressed where that makes them smaller."""
    near_ttl: float = 0
    """How long this process may answer from its own memory; 0: it always asks Redis."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{field.name} must be 0 or more, not {value!r}")
        for name in ("ttl", "stale_while_revalidate", "stale_if_error", "negative_ttl"):
            if (getattr(self, name) or 0) > LONGEST_SECONDS:
                raise ValueError(f"{name} must be {LONGEST_SECONDS} seconds (ten years) at most")
        if self.ttl <= 0:
            raise ValueError("ttl must be more than 0 seconds")
        if self.jitter > 0.5:
            raise ValueError(f"jitter is a share of the ttl, at most 0.5, not {self.jitter!r}")
        if self.loader_timeout <= 0:
            raise ValueError("loader_timeout must be more than 0 seconds")


class MoreOptions(TypedDict, total=False):
    """Name all of them but `ttl` for `Cache.policy`, so that editors and mypy know them there."""

    jitter: float
    stale_while_revalidate: float
    stale_if_error: float
    error_patience: float
    error_throttle: float
    negative_ttl: float | None
    early_refresh: float
    loader_timeout: float
    lease_wait: float
    compress_from: int
    near_ttl: float


SECOND_ASK_SECONDS = 60.0
"""Seconds for the second ask to come in, and for a value to be fresh, and stale, at most."""
MADE_UP_BYTES_PER_MINUTE = 8 * 1024 * 1024
"""What each process keeps for the made-up keys of one route or function, in bytes a minute."""

SecondAsk = bool | Callable[..., bool]


def short_lived(options: PolicyOptions) -> PolicyOptions:
    """Return the options of a policy for keys that anybody can make up."""
    return replace(
        options,
        ttl=min(options.ttl, SECOND_ASK_SECONDS),
        stale_while_revalidate=min(options.stale_while_revalidate, SECOND_ASK_SECONDS),
        stale_if_error=min(options.stale_if_error, SECOND_ASK_SECONDS),
    )


class ByteBudget:
    """So many bytes a minute, and no more than that at once."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used = 0.0
        self._at = monotonic()

    def take(self, size: int) -> bool:
        """Take so many bytes, and return whether there were as many."""
        now = monotonic()
        regained = (now - self._at) * self._max_bytes / 60
        self._used, self._at = max(0.0, self._used - regained), now
        if self._used + size > self._max_bytes:
            return False
        self._used += size
        return True
