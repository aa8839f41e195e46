"""The read path of the cache: from a lookup to a value.

    read ── fresh ──────────────────────────► value   (a popular one is refreshed early)
      ├──── stale, still served ────────────► value   and refresh in the background
      └──── missing, invalid, too old ──────► `loading`

A read never raises an error of Redis: without it the loader answers.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from secrets import token_hex
from time import monotonic
from typing import Any, TypeVar

from app.core.cache import metrics
from app.core.cache.concurrency import without_slot
from app.core.cache.decode_memo import DecodeMemo
from app.core.cache.entry import Miss
from app.core.cache.entry_codec import EntryCodec
from app.core.cache.fill import Filler
from app.core.cache.keys import EntryKeys
from app.core.cache.loader_safety import check_captured
from app.core.cache.loading import BatchLookup, LoadCoordinator, Lookup, UnsharedLoads
from app.core.cache.near import NearCache
from app.core.cache.outage import Breaker, CacheUnavailable, Recovery
from app.core.cache.refresh import Refresher
from app.core.cache.results import CacheResult, ReadResult, now_ms, served
from app.core.cache.store import CacheStore, LeaseRequest
from app.core.tasks import Tasks

K = TypeVar("K")

_STORE_GRACE_SECONDS = 60.0
"""Redis may take so long at most to store what was loaded; its own timeouts are shorter."""


class Engine:
    """Reads entries, has them loaded and refreshed, and invalidates them; one per process."""

    def __init__(
        self,
        store: CacheStore,
        near: NearCache | None,
        breaker: Breaker,
        recovery: Recovery,
        *,
        max_loads: int,
        max_refreshes: int,
        is_enabled: bool,
    ) -> None:
        """Put the parts together; if not `is_enabled`, entries are invalidated and nothing else."""
        self._store = store
        self._near = near
        self._breaker = breaker
        self._recovery = recovery
        self._is_enabled = is_enabled
        self._decode_memo = DecodeMemo()
        # In the context of now, never in that of the request that happens to start a load.
        self.loads = Tasks(copy_context())
        self.filler = Filler(store, recovery, max_loads=max_loads)
        self.coordinator = LoadCoordinator(store, self.filler, self.loads, self.fetch)
        self._misses = self.coordinator if is_enabled else UnsharedLoads(self.filler)
        self._refresher = Refresher(self.filler, self.loads, max_refreshes=max_refreshes)

    async def get(self, lookup: Lookup, read: ReadResult | None = None) -> CacheResult:
        """Return a value; `read` is what the caller has read already."""
        codec = lookup.codec
        if read is None:
            read = self.recall(codec, lookup.keys)
            if read is None:
                (read,) = await self.fetch(codec, (lookup.keys,))
        if (entry := read.entry) is not None and (outcome := read.outcome(now := now_ms())):
            if codec.is_due(entry, now):
                requests = {lookup.keys.value: LeaseRequest(lookup.keys, read)}
                self._refresher.start(codec, requests, lookup.load)
            codec.count(outcome)
            return served(read, entry, outcome)
        self._watch_clocks(read)
        async with without_slot():
            result = await self._misses.load(lookup, read)
        codec.count_load(result.outcome, read.miss_reason)
        return result

    async def get_many(self, batch: BatchLookup[K]) -> dict[K, Any]:
        """Return values in the order of the batch's entries: one read, lease, load and store."""
        codec = batch.codec
        reads = await self._read_many(batch)
        now = now_ms()
        values: dict[K, Any] = dict.fromkeys(batch.entries)
        due: dict[K, LeaseRequest] = {}
        missing: dict[K, LeaseRequest] = {}
        for key, read in reads.items():
            entry, outcome = read.entry, read.outcome(now)
            if entry is None or outcome is None:
                self._watch_clocks(read)
                missing[key] = LeaseRequest(batch.entries[key], read)
                continue
            if codec.is_due(entry, now):
                due[key] = LeaseRequest(batch.entries[key], read)
            codec.count(outcome)
            values[key] = read.value
        if due:
            self._refresher.start(codec, due, batch.load)
        if missing:
            async with without_slot():
                loaded = await self._misses.load_many(batch, missing)
            for key, result in loaded.items():
                codec.count_load(result.outcome, missing[key].read.miss_reason)
                values[key] = result.value
        return values

    async def refresh(self, lookup: Lookup) -> CacheResult:
        """Load a value now, and keep it instead of the old one.

        Who reads meanwhile gets the old value, as if nobody refreshed it. When the load fails the
        old one stays.

        Raises:
            Exception: what the loader raised.
        """
        if not lookup.is_safe:
            check_captured(lookup.codec.policy, lookup.loader)
        # Callers from now on do not join a load that began before; nobody joins this one, either.
        flights = self.coordinator.flights
        flights.forget_dependent([lookup.keys.value])
        flight = flights.start(token_hex(8), lambda _: self._replace(lookup), ())
        outcome = "failed"
        try:
            async with without_slot():
                result: CacheResult = await flight.wait()
            outcome = "done"
        finally:
            metrics.refreshes.labels(lookup.codec.policy, outcome).inc()
        return result

    async def delete(self, entries: Sequence[EntryKeys], *, strict: bool = False) -> None:
        """Delete entries, and the right of loads under way to store them.

        Raises:
            CacheUnavailable: with `strict`, if it could not be done now; it is done later.
        """
        if not entries:
            return
        names = [keys.value for keys in entries]
        pairs = [(keys.value, keys.lease) for keys in entries]
        await self._invalidate(
            names,
            self._store.delete(pairs),
            later=lambda: self._recovery.queue_entries(pairs, entries[0].versions[0]),
            in_near=lambda near: near.invalidate(names),
            strict=strict,
        )

    async def drop_versions(self, names: Sequence[str], *, strict: bool = False) -> None:
        """Make everything invalid that was stored under these versions of policies and tags.

        Raises:
            CacheUnavailable: with `strict`, if it could not be done now; it is done later.
        """
        if not names:
            return
        await self._invalidate(
            names,
            self._store.drop_versions(names),
            later=lambda: self._recovery.queue_versions(names),
            in_near=lambda near: near.invalidate_versions(names),
            strict=strict,
        )

    def drop_versions_later(self, names: Sequence[str], why: str) -> None:
        """Have versions dropped in the background; nothing is read from Redis before that."""
        self.coordinator.flights.forget_dependent(names)
        self._recovery.queue_versions(names)
        self._breaker.open(why)
        if self._near is not None:
            self._near.invalidate_versions(names)

    async def drain(self, grace: float) -> None:
        """Let loads and stores finish for `grace` seconds, then cancel the loads that are left."""
        await self.loads.stop(grace)
        await self.filler.tasks.stop(_STORE_GRACE_SECONDS)

    def recall(self, codec: EntryCodec, keys: EntryKeys) -> ReadResult | None:
        """Return what the near cache holds. If that is nothing, `fetch`."""
        if self._near is None or not codec.options.near_ttl:
            return None
        kept = self._near.get(keys.value)
        if kept is None or kept.entry is None or codec.value_codec.shareable:
            return kept
        # Callers might change the value: each gets one of its own.
        return replace(kept, value=codec.load_payload(kept.entry, keys))

    async def fetch(self, codec: EntryCodec, entries: Sequence[EntryKeys]) -> list[ReadResult]:
        """Read entries of the same tags from Redis at once; the near cache keeps them."""
        if not self._is_enabled:
            return [_unread(Miss.DISABLED, monotonic(), online=False)] * len(entries)
        near = self._near if codec.options.near_ttl else None
        generations = [near.generation(keys.value) for keys in entries] if near else []
        names: Sequence[bytes] = entries[0].read_keys
        if len(entries) > 1:
            names = [*(keys.read_keys[0] for keys in entries), *names[1:]]
        at = monotonic()
        try:
            replies = await self._store.read(names)
        except CacheUnavailable as error:
            return [_unread(Miss.UNAVAILABLE, at, online=not error.outage)] * len(entries)
        if near is None and len(entries) == 1:  # as most reads are: without what many need
            return [self._decode_memo.unpack(codec, entries[0], replies[0], replies[1:], at=at)]
        versions = replies[len(entries) :]
        unpack = self._decode_memo.unpack if near is None else EntryCodec.unpack
        reads = []
        for keys, raw in zip(entries, replies, strict=False):
            reads.append(unpack(codec, keys, raw, versions, at=at))
        if near is not None:
            for keys, read, generation in zip(entries, reads, generations, strict=True):
                near.put(codec, keys, read, generation)
        return reads

    async def _read_many(self, batch: BatchLookup[K]) -> dict[K, ReadResult]:
        found: dict[K, ReadResult] = {}
        elsewhere: dict[K, EntryKeys] = {}
        for key, keys in batch.entries.items():
            if (read := self.recall(batch.codec, keys)) is not None:
                found[key] = read
            else:
                elsewhere[key] = keys
        if elsewhere:
            fetched = await self.fetch(batch.codec, list(elsewhere.values()))
            found.update(zip(elsewhere, fetched, strict=True))
        return found

    def _watch_clocks(self, read: ReadResult) -> None:
        if read.miss_reason is Miss.FUTURE:
            self._store.clock.note_future_entry()

    async def _replace(self, lookup: Lookup) -> CacheResult:
        codec, keys = lookup.codec, lookup.keys
        (stored,) = await self.fetch(codec, (keys,))
        # The old value is nothing to fall back on: the caller wants to know of an error.
        request = LeaseRequest(keys, replace(stored, entry=None), keep_always=True)
        requests = {keys.value: request}
        try:
            if not stored.online:
                raise CacheUnavailable("the read failed", outage=True)
            _, versions = await self.filler.lease(codec, [request], take=True)
        except CacheUnavailable:
            loaded = await self.filler.load_only(codec, requests, lookup.load)
            self.filler.delete_later([request])  # it has been overtaken
        else:
            loaded = await self.filler.fill(codec, requests, versions, lookup.load)
            with suppress(CacheUnavailable):  # then other near caches keep the old one for near_ttl
                await self._store.announce([keys.value])
        if self._near is not None:
            self._near.invalidate([keys.value])
        return loaded[keys.value]

    async def _invalidate(
        self,
        names: Iterable[str],
        work: Coroutine[Any, Any, None],
        *,
        later: Callable[[], None],
        in_near: Callable[[NearCache], None],
        strict: bool,
    ) -> None:
        """Carry out an invalidation now or, if that is not possible, `later`."""
        # Callers from now on do not join loads under way.
        self.coordinator.flights.forget_dependent(names)
        try:
            await work
        except asyncio.CancelledError:  # the change it follows was made: this is not optional
            later()
            raise
        except CacheUnavailable as error:
            later()
            # Until it is carried out, reads here must not see the old entry.
            self._breaker.open(f"an invalidation failed: {error}")
            if strict:
                raise
        else:
            metrics.invalidations.labels("sent").inc()
        finally:
            if self._near is not None:  # afterwards: a read in between kept the old entry
                in_near(self._near)


def _unread(reason: Miss, at: float, *, online: bool) -> ReadResult:
    return ReadResult(None, None, reason, b"", online=online, at=at)
