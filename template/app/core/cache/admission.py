"""What is kept for keys that anybody can make up, such as cursors: little, and not for long.

Whoever invents keys would fill the server with values that nobody asks for again, and push out what
others need. A key that is asked for once leaves a mark of a few bytes. Its value is kept when it is
asked for again, for a minute or two, and of such values each process keeps so many bytes at most.
"""

from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from app.core.cache.options import PolicyOptions

SECOND_ASK_WITHIN = 60.0
"""Seconds for the second ask to come in, and for a value to be fresh, and stale, at most."""
MAX_BYTES = 8 * 1024 * 1024
"""What each process keeps for the made-up keys of one route or function, in bytes a minute."""

SecondAsk = bool | Callable[..., bool]


def short_lived(options: PolicyOptions) -> PolicyOptions:
    """The options of a policy for keys that anybody can make up."""
    return replace(
        options,
        ttl=min(options.ttl, SECOND_ASK_WITHIN),
        stale_while_revalidate=min(options.stale_while_revalidate, SECOND_ASK_WITHIN),
        stale_if_error=min(options.stale_if_error, SECOND_ASK_WITHIN),
    )


class Allowance:
    """So many bytes a minute, and no more than that at once."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used = 0.0
        self._at = monotonic()

    def take(self, size: int) -> bool:
        """Whether so many bytes are left, which are taken then."""
        now = monotonic()
        regained = (now - self._at) * self._max_bytes / 60
        self._used, self._at = max(0.0, self._used - regained), now
        if self._used + size > self._max_bytes:
            return False
        self._used += size
        return True
