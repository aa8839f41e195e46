"""Distributed locks: leases with fences, on one Redis or on a quorum of them."""

from app.core.locks.dependency import LocksDependency
from app.core.locks.errors import (
    LockError,
    LockLost,
    LockReentered,
    LockTimeout,
    LockUnavailable,
)
from app.core.locks.lease import Lease
from app.core.locks.locks import Locks

# Stores are imported where one is chosen: app.core.locks.node or app.core.locks.redlock.
__all__ = [
    "Lease",
    "LockError",
    "LockLost",
    "LockReentered",
    "LockTimeout",
    "LockUnavailable",
    "Locks",
    "LocksDependency",
]
