"""A lock that is ours until a deadline."""

import time
from collections.abc import Callable
from typing import Protocol

from app.core.locks import metrics
from app.core.locks.errors import LockLost
from app.core.locks.store import Claim

# What a server's clock may run faster than ours while it counts the ttl down, plus the resolution
# of its timers.
_DRIFT_SHARE = 0.01
_DRIFT_SECONDS = 0.002


class LeaseKeeper(Protocol):
    """Talks to the servers for a lease."""

    async def extend(self, lease: "Lease") -> None: ...

    async def release(self, lease: "Lease") -> bool: ...


class Lease:
    """What the holder of a lock has in hand.

    A Redis lock saves work; it cannot make a write safe, because a process may stop between any
    two lines for longer than the lease lasts. What makes a write safe is the fence: let the
    resource remember the largest it has seen and refuse anything smaller:

        UPDATE invoice SET ..., fence = :fence WHERE id = :id AND fence <= :fence

    To read, think and then write, raise the fence before the read. A check at the write alone lets
    an older holder that wakes up in between have its write accepted, and then overwritten:

        UPDATE invoice SET fence = :fence WHERE id = :id AND fence <= :fence
        SELECT ...
        UPDATE invoice SET ... WHERE id = :id AND fence = :fence
    """

    def __init__(self, claim: Claim, fence: int, sent: float, keeper: LeaseKeeper) -> None:
        """`sent` is when the claim was sent, by `time.monotonic()`."""
        self.claim = claim
        self.fence = fence
        """Grows with every grant of this name, whoever gets it."""
        self.granted = time.monotonic()
        self._sent = sent
        self._deadline = _deadline(sent, claim.ttl)
        self._cause: str | None = None
        self._keeper = keeper
        self._on_loss: Callable[[], None] | None = None
        self._closed = False

    @property
    def name(self) -> str:
        return self.claim.name

    @property
    def renewed(self) -> float:
        """When the grant or the latest renewal was sent, by `time.monotonic()`."""
        return self._sent

    @property
    def cause(self) -> str | None:
        """Why the lease is lost or over, or None while it is held."""
        if self._cause is None and time.monotonic() >= self._deadline:
            return "expired"
        return self._cause

    def remaining(self) -> float:
        """Seconds for which the lock is surely ours; 0 when it is lost.

        Counted from before the claim was sent and shortened by 1 % + 2 ms, so that it ends before
        the lock does on the server.
        """
        if self._cause is not None:
            return 0.0
        return max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Call it before each step that only the holder may take.

        Raises:
            LockLost: the lock is no longer ours, or may not be.
        """
        if (cause := self.cause) is not None:
            raise LockLost(self.name, cause)

    async def extend(self) -> None:
        """Hold the lock for its full ttl from now on.

        Raises:
            LockLost: it is no longer ours; it is never taken again behind the holder's back.
            LockUnavailable: the servers did not answer; what remains of the lease is still ours.
        """
        await self._keeper.extend(self)

    async def release(self) -> bool:
        """Give the lock back; doing so twice is harmless.

        Goes on in the background when the caller is cancelled or a server does not answer.

        Returns:
            Whether the servers confirmed that the lock was ours until now.
        """
        return await self._keeper.release(self)

    def on_loss(self, callback: Callable[[], None] | None) -> None:
        """What to call, once, when the lease turns out to be lost."""
        self._on_loss = callback

    def renew(self, sent: float) -> bool:
        """Move the deadline after a renewal sent at `sent`; a lease that ran out stays lost."""
        deadline = _deadline(sent, self.claim.ttl)
        if self.cause is not None or time.monotonic() >= deadline:
            return False
        self._sent = max(sent, self._sent)
        self._deadline = max(deadline, self._deadline)
        return True

    def lose(self, cause: str) -> bool:
        """Close the lease for good and tell the holder; False when it was over before."""
        if self._cause is not None:
            return False
        self._end(cause)
        if self._on_loss is not None:
            self._on_loss()
        return True

    def close(self) -> bool:
        """Close the lease at its holder's wish; False when that has happened before."""
        if self._closed:
            return False
        self._closed = True
        if self._cause is None:
            self._end(self.cause or "released")
        return True

    def _end(self, cause: str) -> None:
        self._cause = cause
        metrics.hold_seconds.observe(time.monotonic() - self.granted)
        if cause != "released":
            metrics.losses.labels(cause).inc()


def _deadline(sent: float, ttl: float) -> float:
    return sent + ttl - (_DRIFT_SHARE * ttl + _DRIFT_SECONDS)
