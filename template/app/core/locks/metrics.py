"""The metrics of locks. Names of locks are never labels: there is no limit to their number."""

import time
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from app.core.locks.errors import LockTimeout, LockUnavailable
from app.core.observability.metrics import begin_at_zero

acquire_seconds = Histogram(
    "lock_acquire_seconds",
    "From asking to granted, refused, timeout, unavailable, cancelled or error.",
    ["outcome"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
wait_seconds = Histogram(
    "lock_wait_seconds",
    "From the first refusal to the grant, for locks that had to be waited for.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
hold_seconds = Histogram(
    "lock_hold_seconds",
    "From the grant to the release or the loss.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
renewals = Counter("lock_renewals", "Renewals of leases: renewed, gone, failed.", ["outcome"])
losses = Counter(
    "lock_losses",
    "Locks lost while held: gone, unreachable, expired, max_hold, closed.",
    ["cause"],
)
node_errors = Counter(
    "lock_node_errors",
    "Commands that failed on a lock server.",
    ["node", "error"],
)
refusals = Counter("lock_refusals", "Refused attempts: held, split, quarantine.", ["reason"])
cleanups = Counter("lock_cleanups", "Locks released after a cancelled attempt to acquire them.")

begin_at_zero(
    acquire_seconds, ("granted", "refused", "timeout", "unavailable", "cancelled", "error")
)
begin_at_zero(renewals, ("renewed", "gone", "failed"))
begin_at_zero(losses, ("gone", "unreachable", "expired", "max_hold", "closed"))
begin_at_zero(refusals, ("held", "split", "quarantine"))


@dataclass(slots=True)
class Timing:
    """The outcome of an acquisition."""

    outcome: str = "granted"


@contextmanager
def time_acquire() -> Iterator[Timing]:
    """Time the block; its outcome is "granted" unless it says otherwise or raises."""
    began = time.perf_counter()
    timing = Timing()
    try:
        yield timing
    except BaseException as error:
        if isinstance(error, LockUnavailable):
            timing.outcome = "unavailable"
        elif isinstance(error, LockTimeout):
            timing.outcome = "timeout"
        elif isinstance(error, CancelledError):
            timing.outcome = "cancelled"
        else:
            timing.outcome = "error"
        raise
    finally:
        acquire_seconds.labels(timing.outcome).observe(time.perf_counter() - began)
