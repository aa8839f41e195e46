"""Filling entries: the lease before the load, the store after it, and no loose end in between.

What ends a fill (storing, or releasing the lease) is done also when the fill is cancelled, and what
Redis could not be told is left to the recovery. Every step takes one entry or many.

Fill leases are short, and renewed for as long as their holder lives: nobody waits for a process
that was killed any longer than its lease lasts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar

import structlog

from app.core.cache import metrics
from app.core.cache.concurrency import Bulkhead
from app.core.cache.entry import Entry, Miss, mark
from app.core.cache.entry_codec import EntryCodec
from app.core.cache.kept import plain, ttl_of
from app.core.cache.outage import CacheUnavailable, Recovery
from app.core.cache.results import CacheResult, Outcome, fallback, now_ms
from app.core.cache.store import CacheStore, LeaseReply, LeaseRequest
from app.core.read_scope import READ_SCOPE
from app.core.tasks import Tasks

K = TypeVar("K")
T = TypeVar("T")

log = structlog.get_logger(__name__)


LEASE_SECONDS = 2.0
"""How long a fill lease lasts after its holder has died, or its event loop stands still."""
_RENEW_INTERVAL_SECONDS = LEASE_SECONDS / 3


class Filler:
    """Leases, loaders and stores of one process."""

    def __init__(self, store: CacheStore, recovery: Recovery, *, max_loads: int) -> None:
        self._store = store
        self._recovery = recovery
        self._loads = Bulkhead(max_loads)
        self.tasks = Tasks()
        """What ends a fill, also of callers who are gone."""
        self._renewal = LeaseRenewal(store, self.tasks)

    async def lease(
        self, codec: EntryCodec, requests: Sequence[LeaseRequest], *, take: bool = False
    ) -> tuple[list[LeaseReply], dict[str, bytes]]:
        """Ask for leases on entries of the same tags, which were read at the same time.

        Return an answer for each and the versions to store under, by name. With `take` they are
        taken away from whoever has them, whose loads will not be stored.

        Raises:
            CacheUnavailable: nothing was granted, as far as anybody can know.
        """
        known = dict(zip(requests[0].keys.versions, requests[0].read.versions, strict=False))
        missing = [name for name, version in known.items() if version is None]
        asking = self.tasks.start(
            self._store.lease_many(
                requests,
                missing,
                ttl=LEASE_SECONDS,
                longest=codec.options.loader_timeout,
                take=take,
            )
        )
        try:
            replies, created = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self.tasks.start(self._return_leases(asking, requests))
            raise
        except CacheUnavailable as unavailable:
            if unavailable.outage:  # the request may have arrived, only the reply is missing
                self.delete_later(requests)
            elif missing or len(requests) > 1:  # some of it may have been granted
                self.tasks.start(self.release(requests, throttle=0))
            raise
        return replies, {name: version or created[name] for name, version in known.items()}

    async def _load(self, codec: EntryCodec, load: Callable[[], Awaitable[T]]) -> tuple[T, float]:
        """Run a loader, and return its result and the seconds it took.

        Raises:
            TimeoutError: it took longer than `loader_timeout`, the wait for a slot included.
        """
        limit = codec.options.loader_timeout
        outcome, started = "error", monotonic()
        fresh = READ_SCOPE.set(None)
        try:
            async with asyncio.timeout(limit) as deadline:
                async with self._loads.slot():
                    started = monotonic()
                    result = await load()
            outcome = "ok"
        except TimeoutError as error:
            if not deadline.expired():
                raise
            outcome = "timeout"
            raise TimeoutError(f"loading {codec.policy!r} took more than {limit} s") from error
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            READ_SCOPE.reset(fresh)
            codec.observe_load(outcome, monotonic() - started)
        return result, monotonic() - started

    async def fill(
        self,
        codec: EntryCodec,
        granted: Mapping[K, LeaseRequest],
        versions: Mapping[str, bytes],
        load: Callable[[], Awaitable[Mapping[K, Any]]],
    ) -> dict[K, CacheResult]:
        """Load entries under leases and keep them. What the loader leaves out is None.

        When it fails, and every one of them has an old value to stand in, nobody tries again for
        `error_throttle` seconds.

        Raises:
            Exception: what the loader raised.
        """
        requests, as_of = list(granted.values()), monotonic()
        try:
            with self._renewal.of(requests):
                values, cost = await self._load(codec, load)
        except BaseException as error:
            old = fallbacks(granted) if isinstance(error, Exception) else None
            await self.release(requests, throttle=codec.options.error_throttle if old else 0)
            if old is None:
                raise
            log.warning("cache.load_failed", policy=codec.policy, error=repr(error))
            return old
        results = {key: values.get(key) for key in granted}
        entries = await self._keep(
            codec, list(zip(requests, results.values(), strict=True)), cost, list(versions.values())
        )
        return {
            key: CacheResult(plain(result), Outcome.MISS, entry.created, entry.fresh_until, as_of)
            for (key, result), entry in zip(results.items(), entries, strict=True)
        }

    async def load_only(
        self,
        codec: EntryCodec,
        wanted: Mapping[K, LeaseRequest],
        load: Callable[[], Awaitable[Mapping[K, Any]]],
    ) -> dict[K, CacheResult]:
        """Load what cannot be kept, because there is no lease to be had; see `fill`."""
        as_of = monotonic()
        try:
            values, _ = await self._load(codec, load)
        except Exception as error:
            if (old := fallbacks(wanted)) is None:
                raise
            log.warning("cache.load_failed", policy=codec.policy, error=repr(error))
            return old
        now = now_ms()
        return {
            key: CacheResult(plain(values.get(key)), Outcome.MISS, now, now, as_of)
            for key in wanted
        }

    async def _keep(
        self,
        codec: EntryCodec,
        results: Sequence[tuple[LeaseRequest, Any]],
        cost: float,
        versions: Sequence[bytes],
    ) -> list[Entry]:
        """Store what was loaded under its leases, and return its entries; `cost` in seconds."""
        entries, full, empty = [], [], []
        for request, result in results:
            value, own_ttl = plain(result), ttl_of(result)
            entry = codec.new_entry(value, cost, b"".join(versions), own_ttl)
            entries.append(entry)
            if own_ttl == 0:
                # The lease is released at once, and whoever waits for it does not wait for the next
                # load, which would not be kept either. So the mark outlives that one.
                full.append((request, mark(Miss.NOT_KEPT), codec.options.loader_timeout))
                continue
            raw = codec.pack(entry, value, request.keys)
            ttl = (max(entry.stale_until, entry.error_until) - entry.created) / 1000
            admitted = raw and (
                (raw, ttl) if request.keep_always else codec.admit(request.read, raw, ttl)
            )
            if admitted:
                full.append((request, *admitted))
            elif request.read.id:
                # What is there now has been overtaken: it goes, under the same lease.
                full.append((request, b"", 0))
            else:
                empty.append(request)
        try:
            if full:
                saving = self._save(codec, full, versions)
                await self._finish(saving, [request for request, *_ in full])
        finally:
            await self.release(empty, throttle=0)
        return entries

    async def release(self, requests: Sequence[LeaseRequest], *, throttle: float) -> None:
        """Release leases; for `throttle` seconds nobody else gets them."""
        if requests:
            await self._finish(self._store.release_leases(requests, throttle), requests)

    async def _return_leases(
        self, asking: asyncio.Task[Any], requests: Sequence[LeaseRequest]
    ) -> None:
        await asyncio.wait([asking])
        asking.exception()
        await self.release(requests, throttle=0)

    async def _save(
        self,
        codec: EntryCodec,
        entries: Sequence[tuple[LeaseRequest, bytes, float]],
        versions: Sequence[bytes],
    ) -> None:
        for stored in await self._store.store_many(entries, versions):
            metrics.stores.labels(codec.policy, "stored" if stored else "refused").inc()

    async def _finish(
        self, work: Coroutine[Any, Any, Any], requests: Sequence[LeaseRequest]
    ) -> None:
        async def finish() -> None:
            try:
                await work
            except CacheUnavailable:
                # The leases may still be there, and would keep everybody waiting.
                self.delete_later(requests)

        await self.tasks.shield(finish())

    def delete_later(self, requests: Sequence[LeaseRequest]) -> None:
        """Have entries and leases deleted as soon as Redis answers."""
        for keys in (request.keys for request in requests):
            self._recovery.queue_entries([(keys.value, keys.lease)], keys.versions[0])


def fallbacks(requests: Mapping[K, LeaseRequest]) -> dict[K, CacheResult] | None:
    """Return the old values, if every one of them may be served because there is no new one."""
    old = {key: fallback(request.read) for key, request in requests.items()}
    found = {key: loaded for key, loaded in old.items() if loaded is not None}
    return found if len(found) == len(old) else None


class LeaseRenewal:
    """Renews what this process holds: one round trip for all of it, nothing for quick loads."""

    def __init__(self, store: CacheStore, tasks: Tasks) -> None:
        """Renew leases of `store` in `tasks`."""
        self._store = store
        self._tasks = tasks
        self._held: dict[str, LeaseRequest] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def of(self, requests: Sequence[LeaseRequest]) -> Iterator[None]:
        """Keep granted leases alive while the body runs."""
        self._held.update((request.token, request) for request in requests)
        if self._timer is None:
            self._start()
        try:
            yield
        finally:
            for request in requests:
                self._held.pop(request.token, None)

    def _start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_RENEW_INTERVAL_SECONDS, self._renew)

    def _renew(self) -> None:
        self._timer = None
        if self._held:
            self._tasks.start(self._renew_all(list(self._held.values())))
            self._start()

    async def _renew_all(self, requests: Sequence[LeaseRequest]) -> None:
        try:
            renewed = await self._store.renew_leases(requests, LEASE_SECONDS)
        except CacheUnavailable:
            return  # there is another attempt before they end
        for request, is_ours in zip(requests, renewed, strict=True):
            if not is_ours:  # an invalidation took it: what is loaded will not be stored
                self._held.pop(request.token, None)
