"""Fill leases that are short, and renewed for as long as their holder lives.

Whoever waits for a process that was killed waits for no longer than its lease lasts. So a lease
does not last as long as a loader may run, but a moment, and the process that loads keeps it alive.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from app.core.cache.keys import Address
from app.core.cache.store import CacheStore, CacheUnavailable

LEASE_SECONDS = 2.0
"""How long a fill lease lasts after its holder has died, or its event loop stands still."""
_INTERVAL = LEASE_SECONDS / 3


class LeaseRenewal:
    """Renews what this process holds: one round trip for all of it, nothing for quick loads."""

    def __init__(
        self, store: CacheStore, spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        """`spawn` runs a renewal in the background."""
        self._store = store
        self._spawn = spawn
        self._held: dict[str, Address] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def of(self, leases: Sequence[tuple[Address, str]]) -> Iterator[None]:
        """Keep leases (address and token) alive while the body runs."""
        for address, token in leases:
            self._held[token] = address
        if self._timer is None:
            self._start()
        try:
            yield
        finally:
            for _, token in leases:
                self._held.pop(token, None)

    def _start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._renew)

    def _renew(self) -> None:
        self._timer = None
        if self._held:
            self._spawn(
                self._renew_all([(address, token) for token, address in self._held.items()])
            )
            self._start()

    async def _renew_all(self, leases: Sequence[tuple[Address, str]]) -> None:
        try:
            renewed = await self._store.renew_leases(leases, LEASE_SECONDS)
        except CacheUnavailable:
            return  # there is another turn before they end
        for (_, token), is_ours in zip(leases, renewed, strict=True):
            if not is_ours:  # an invalidation took it: what is loaded will not be stored
                self._held.pop(token, None)
