"""Locks, whatever keeps them."""

from app.core.locks import LockLost, Locks, LockTimeout
from app.core.locks.store import LockStore
from app.core.service import Service


def add_locks(service: Service, store: LockStore, *, production: bool) -> Locks:
    """Install locks that this store keeps."""
    locks = Locks(
        store,
        prefix=f"{service.name}:lock",
        # A server that has just started refuses locks for as long as one that it forgot might
        # still be held. Where nothing is at stake that would only be a wait.
        quarantine=None if production else 0,
    )
    service.open(locks)
    service.share(locks=locks)
    service.transient(LockLost, LockTimeout)
    service.check("locks", locks.check)
    return locks
