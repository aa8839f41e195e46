"""What happens while Redis is away, and the way back.

After a few failures in a row the breaker opens, and nobody asks Redis any more for a while: every
cache operation costs nothing, and the service answers from its loaders. No request ever pays for
finding out whether Redis is back: the recovery does, in the background.

Invalidations wait in its queue meanwhile. Once Redis answers they are carried out first, and only
then does the breaker close, so that no read in this process sees what had been invalidated. The
queue is bounded and never forgets: keys that are too many become "everything of that policy". It is
this process's memory. If the process dies with it, the ttl of the entries is the bound on how long
they can still be served; if it is stopped in order, it tries once more.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import structlog

from app.core.cache import metrics

log = structlog.get_logger(__name__)

_FIRST_DELAY_SECONDS = 0.25
_LONGEST_DELAY_SECONDS = 1.0
"""A ping now and then is nothing beside what the loaders do meanwhile."""


class CacheUnavailable(Exception):
    """Redis did not do what was asked; `outage` says that it could not be reached at all."""

    def __init__(self, message: str, *, outage: bool) -> None:
        super().__init__(message)
        self.outage = outage


class Breaker:
    """Counts consecutive failures and opens at `threshold` of them."""

    def __init__(self, *, threshold: int, on_open: Callable[[], None]) -> None:
        self._threshold = threshold
        self._on_open = on_open
        self._failures = 0
        self.is_open = False
        metrics.breaker_open.set(0)

    def record_success(self) -> None:
        """Count failures from zero again."""
        self._failures = 0

    def record_failure(self, why: str) -> None:
        """Count a failure, and open at the last one that is tolerated."""
        self._failures += 1
        if self._failures >= self._threshold:
            self.open(why)

    def open(self, why: str) -> None:
        """Leave Redis alone, and have the recovery look for it."""
        if self.is_open:
            return
        log.warning("cache.breaker_opened", why=why)
        self.is_open = True
        metrics.breaker_open.set(1)
        self._on_open()

    def close(self) -> None:
        """Use Redis again."""
        self._failures = 0
        self.is_open = False
        metrics.breaker_open.set(0)


class RecoverableStore(Protocol):
    """What the recovery asks of a store; each raises CacheUnavailable if it was not done."""

    async def ping(self, key: str) -> None: ...

    async def probe(self, key: str) -> None: ...

    async def replay(self, pairs: Iterable[tuple[str, str]], versions: Iterable[str]) -> None: ...


class Recovery:
    """Tries, in the background and once a second in the end, until nothing is left to do."""

    def __init__(
        self,
        *,
        probe: str,
        all_policies: Callable[[], Iterable[str]],
        replayed: Callable[[], Awaitable[None]],
        limit: int = 10_000,
    ) -> None:
        """Start with an empty queue.

        Args:
            probe: a key to ask for.
            all_policies: gives the version names of every policy.
            replayed: is called when all that was queued has been carried out.
            limit: bounds the queue.
        """
        self._probe = probe
        self._all_policies = all_policies
        self._replayed = replayed
        self._limit = limit
        self._pairs: dict[tuple[str, str], str] = {}
        self._versions: dict[str, None] = {}
        self._needed = asyncio.Event()

    @property
    def queued(self) -> int:
        """The number of invalidations that wait."""
        return len(self._pairs) + len(self._versions)

    def queue_entries(self, pairs: Iterable[tuple[str, str]], policy_version: str) -> None:
        """Queue entries (value key and lease key) for deletion."""
        self._pairs.update(dict.fromkeys(pairs, policy_version))
        if len(self._pairs) > self._limit:
            self._versions.update(dict.fromkeys(self._pairs.values()))
            self._pairs.clear()
        self._queued()

    def queue_versions(self, names: Iterable[str]) -> None:
        """Queue versions of tags or policies for deletion."""
        self._versions.update(dict.fromkeys(names))
        if len(self._versions) > self._limit:
            self._versions = dict.fromkeys(self._all_policies())
        self._queued()

    def wake(self) -> None:
        """Tell it that there is something to do."""
        self._needed.set()

    async def run(self, store: RecoverableStore, breaker: Breaker) -> None:
        """Work until cancelled."""
        while True:
            await self._needed.wait()
            self._needed.clear()
            delay = _FIRST_DELAY_SECONDS
            while breaker.is_open or self.queued:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
                try:
                    await self._attempt(store, breaker)
                except CacheUnavailable:
                    continue
                except Exception:  # without this task the breaker would stay open for good
                    log.exception("cache.recovery_failed")

    async def finish(self, store: RecoverableStore) -> None:
        """Try a last time, at shutdown, to carry out what waits, for other processes."""
        try:
            await self._replay(store)
        except CacheUnavailable as error:
            log.error("cache.invalidations_lost", count=self.queued, error=str(error))

    async def _attempt(self, store: RecoverableStore, breaker: Breaker) -> None:
        await store.ping(self._probe)
        await self._replay(store)
        if breaker.is_open:
            # A server that is too slow for reads would only open the breaker again.
            await store.probe(self._probe)
            await self._replay(store)
            breaker.close()
            log.info("cache.breaker_closed")

    async def _replay(self, store: RecoverableStore) -> None:
        while self.queued:
            # What is queued while the replay is under way may have happened after it: keep both
            # apart, and put the old ones back if they did not arrive.
            pairs, self._pairs = self._pairs, {}
            versions, self._versions = self._versions, {}
            try:
                await store.replay(pairs, versions)
            except BaseException:
                self._pairs = pairs | self._pairs
                self._versions = versions | self._versions
                raise
            metrics.queued_invalidations.set(self.queued)
            if not self.queued:
                await self._replayed()

    def _queued(self) -> None:
        metrics.invalidations.labels("queued").inc()
        metrics.queued_invalidations.set(self.queued)
        self.wake()
