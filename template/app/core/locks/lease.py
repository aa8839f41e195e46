"""The handle of a lock that is held until a deadline."""

import time
from collections.abc import Callable
from typing import Protocol

from app.core.locks import metrics
from app.core.locks.errors import LockLost
from app.core.locks.store import Claim

# How much faster a server's clock may run while it counts the ttl down, and the resolution of its
# timers.
_DRIFT_SHARE = 0.01
_DRIFT_SECONDS = 0.002


class LeaseKeeper(Protocol):
    """Extends and releases leases on the servers."""

    async def extend(self, lease: "Lease") -> None: ...

    async def release(self, lease: "Lease") -> bool: ...


class Lease:
    """The handle of a lock: its fence, its remaining time, and its end.

    A Redis lock saves work; it cannot make a write safe, because a process may be suspended between
    any two lines for longer than the lease lasts. What makes a write safe is the fence: let the
    resource remember the largest that it has seen, and refuse anything smaller:

        UPDATE invoice SET ..., fence = :fence WHERE id = :id AND fence <= :fence

    To read, compute and then write, raise the fence before the read. If only the write is checked,
    an older holder that resumes in between has its write accepted, and then overwritten:

        UPDATE invoice SET fence = :fence WHERE id = :id AND fence <= :fence
        SELECT ...
        UPDATE invoice SET ... WHERE id = :id AND fence = :fence
    """

    def __init__(self, claim: Claim, fence: int, sent: float, keeper: LeaseKeeper) -> None:
        """`sent` is when the claim was sent, by `time.monotonic()`."""
        self.claim = claim
        self.fence = fence
        """Grows with every grant of this name, to any process."""
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
        """Why the lease has ended; None while the lock is held."""
        if self._cause is None and time.monotonic() >= self._deadline:
            return "expired"
        return self._cause

    def remaining(self) -> float:
        """Return for how many seconds the lock is certainly held; 0 when the lease has ended.

        They count from before the claim was sent and are shortened by 1 % + 2 ms, so that the lease
        ends before the lock does on the server.
        """
        if self._cause is not None:
            return 0.0
        return max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Raise if the lock is lost; for use before each step that only the holder may take.

        Raises:
            LockLost: the lock is no longer held, or may not be.
        """
        if (cause := self.cause) is not None:
            raise LockLost(self.name, cause)

    async def extend(self) -> None:
        """Hold the lock for its full ttl from now on.

        Raises:
            LockLost: it is no longer held. It is never silently acquired again.
            LockUnavailable: the servers did not answer; the lease goes on to its old deadline.
        """
        await self._keeper.extend(self)

    async def release(self) -> bool:
        """Release the lock; doing so twice is harmless.

        Continues in the background if the caller is cancelled or a server does not answer.

        Returns:
            Whether the servers confirmed that the lock was held until now.
        """
        return await self._keeper.release(self)

    def on_loss(self, callback: Callable[[], None] | None) -> None:
        """Set what is called, once, when the lease is lost."""
        self._on_loss = callback

    def renew(self, sent: float) -> bool:
        """Move the deadline after a renewal sent at `sent`; an expired lease stays lost."""
        deadline = _deadline(sent, self.claim.ttl)
        if self.cause is not None or time.monotonic() >= deadline:
            return False
        self._sent = max(sent, self._sent)
        self._deadline = max(deadline, self._deadline)
        return True

    def lose(self, cause: str) -> bool:
        """End the lease for good and tell the holder; return False if it had ended before."""
        if self._cause is not None:
            return False
        self._end(cause)
        if self._on_loss is not None:
            self._on_loss()
        return True

    def close(self) -> bool:
        """End the lease for its holder; return False if that has happened before."""
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
