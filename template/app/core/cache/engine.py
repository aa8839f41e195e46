"""The read path of the cache: from a lookup to a value.

    read ── fresh ──────────────────────────► value   (a popular one is refreshed early)
      ├──── stale, still served ────────────► value   and refresh in the background
      └──── missing, invalid, too old
              └─ join or start the flight of this key
                   ├─ lease granted ── load ── store ──► value
                   ├─ lease taken: wait, read again, in the end load for oneself
                   └─ Redis away: load, do not store

A read never raises an error of Redis: without it the loader answers.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from secrets import token_hex
from time import monotonic
from typing import Any

from app.core.cache import metrics
from app.core.cache.concurrency import Cooldown, Flight, SingleFlight, without_slot
from app.core.cache.decode_memo import DecodeMemo
from app.core.cache.entry import Miss
from app.core.cache.entry_codec import EntryCodec, Lookup
from app.core.cache.fill import Filler, LeaseRequest
from app.core.cache.keys import EntryKeys
from app.core.cache.loader_safety import check_captured
from app.core.cache.near import NearCache
from app.core.cache.outage import CacheUnavailable
from app.core.cache.refresh import Refresher
from app.core.cache.results import CacheResult, Outcome, ReadResult, fallback, now_ms, served
from app.core.cache.store import CacheStore, LeaseOutcome

_FIRST_POLL = 0.02
_LONGEST_POLL = 0.25
_IMPATIENCE = 0.25


class Engine:
    """Reads entries, fills them and has them refreshed; one per process."""

    def __init__(
        self, store: CacheStore, filler: Filler, near: NearCache | None, *, max_refreshes: int
    ) -> None:
        self.store = store
        self.filler = filler
        self._near = near
        self._decode_memo = DecodeMemo()
        context = copy_context()
        self.flights = SingleFlight(context)
        self.refresher = Refresher(filler, context, most=max_refreshes)
        self._impatient = Cooldown()

    async def get(self, lookup: Lookup, read: ReadResult | None = None) -> CacheResult:
        """The value of a lookup; `read` is what the caller has read already."""
        codec = lookup.codec
        if read is None:
            read = self.near(codec, lookup.keys) or await self.fetch(codec, lookup.keys)
        if (entry := read.entry) is not None:
            now = now_ms()
            if now < entry.fresh_until:
                if codec.is_due(entry, now):
                    self._refresh(lookup, read)
                outcome = Outcome.NEAR if read.near else Outcome.HIT
                codec.count(outcome)
                return served(read, entry, outcome)
            if now < entry.stale_until:
                self._refresh(lookup, read)
                codec.count(Outcome.STALE)
                return served(read, entry, Outcome.STALE)
        if read.miss_reason is Miss.FUTURE:
            self.store.clock.saw_future()
        async with without_slot():
            loaded = await self._join(lookup, read)
        codec.count(loaded.outcome)
        if loaded.outcome is Outcome.MISS:
            codec.count_miss(read.miss_reason or Miss.EXPIRED)
        return loaded

    def near(self, codec: EntryCodec, keys: EntryKeys) -> ReadResult | None:
        """What the near cache holds under these keys."""
        if self._near is None or not codec.options.near_ttl:
            return None
        kept = self._near.get(keys.value)
        if kept is None or kept.entry is None or codec.value_codec.shareable:
            return kept
        # Callers might change the value: each gets one of its own.
        return replace(kept, value=codec.load_payload(kept.entry, keys))

    async def fetch(self, codec: EntryCodec, keys: EntryKeys) -> ReadResult:
        """What Redis holds under these keys; the near cache keeps it."""
        near = self._near if codec.options.near_ttl else None
        generation = near.generation(keys.value) if near is not None else (0, 0)
        at = monotonic()
        try:
            raw, *versions = await self.store.read(keys.read_keys)
        except CacheUnavailable as unavailable:
            return _unread(unavailable, at)
        if near is None:
            return self._decode_memo.unpack(codec, keys, raw, versions, at=at)
        read = codec.unpack(keys, raw, versions, at=at)
        near.put(codec, keys, read, generation)
        return read

    async def fetch_many(self, codec: EntryCodec, entries: Sequence[EntryKeys]) -> list[ReadResult]:
        """`fetch` for several entries of the same tags, in one round trip."""
        near = self._near if codec.options.near_ttl else None
        values = [keys.value for keys in entries]
        generations = [(0, 0) if near is None else near.generation(key) for key in values]
        names = [*(key.encode() for key in values), *entries[0].read_keys[1:]]
        at = monotonic()
        try:
            raw = await self.store.read(names)
        except CacheUnavailable as unavailable:
            return [_unread(unavailable, at)] * len(entries)
        versions = raw[len(values) :]
        found = []
        for keys, one, generation in zip(entries, raw, generations, strict=False):
            if near is None:
                read = self._decode_memo.unpack(codec, keys, one, versions, at=at)
            else:
                read = codec.unpack(keys, one, versions, at=at)
                near.put(codec, keys, read, generation)
            found.append(read)
        return found

    async def refresh(self, lookup: Lookup) -> CacheResult:
        """Load a value now, and keep it instead of the old one.

        Who reads meanwhile gets the old value, as if nobody refreshed it. When the load fails the
        old one stays.

        Raises:
            Exception: what the loader raised.
        """
        check_captured(lookup.codec.policy, lookup.load)
        # Callers from now on do not join a load that began before; nobody joins this one, either.
        self.forget([lookup.keys.value])
        flight = self.flights.start(token_hex(8), lambda _: self._replace(lookup), ())
        outcome = "failed"
        try:
            async with without_slot():
                loaded: CacheResult = await flight.wait()
            outcome = "done"
        finally:
            metrics.refreshes.labels(lookup.codec.policy, outcome).inc()
        return loaded

    def forget(self, names: Iterable[str]) -> None:
        """Callers from now on do not join loads under way of these entries, policies or tags."""
        self.flights.forget_dependent(names)

    async def drain(self, grace: float) -> None:
        """Let loads and stores finish for `grace` seconds, then cancel what is left."""
        end = monotonic() + grace
        while loads := self.flights.tasks | self.refresher.tasks:  # a load may begin another one
            _, late = await asyncio.wait(loads, timeout=max(end - monotonic(), 0))
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        while endings := self.filler.tasks:  # no longer than Redis may take to answer
            await asyncio.wait(endings)

    def _refresh(self, lookup: Lookup, read: ReadResult) -> None:
        requests = {lookup.keys.value: LeaseRequest(lookup.keys, read)}
        self.refresher.start(lookup.codec, requests, lambda _: _load(lookup))

    async def _replace(self, lookup: Lookup) -> CacheResult:
        codec, keys = lookup.codec, lookup.keys
        # The old value is nothing to fall back on: the caller wants to know of an error.
        read = replace(await self.fetch(codec, keys), entry=None)
        request = LeaseRequest(keys, read, keep_always=True)
        requests = {keys.value: request}
        try:
            if not read.online:
                raise CacheUnavailable("the read failed", outage=True)
            _, versions = await self.filler.lease(codec, [request], take=True)
        except CacheUnavailable:
            loaded = await self.filler.load_only(codec, requests, lambda: _load(lookup))
            self.filler.delete_later([keys])  # it has been overtaken
        else:
            loaded = await self.filler.fill(codec, requests, versions, lambda: _load(lookup))
            with suppress(CacheUnavailable):  # then other near caches keep the old one for near_ttl
                await self.store.announce([keys.value])
        if self._near is not None:
            self._near.invalidate([keys.value])
        return loaded[keys.value]

    async def _join(self, lookup: Lookup, read: ReadResult) -> CacheResult:
        while True:
            flight = await self._flight(lookup, read)
            checked = flight.token is not None
            if (
                fallback(read) is not None
                and not await flight.lands_within(lookup.codec.options.error_patience)
                and (old := fallback(read)) is not None
            ):
                return old
            loaded: CacheResult = await flight.wait()
            if checked or not read.online or loaded.as_of >= read.at:
                return loaded
            # It answered with what it had read before this caller came, who knows better.
            self.flights.forget(flight)
            if loaded.outcome is Outcome.STALE_ERROR and (old := fallback(read)):
                return old

    async def _flight(self, lookup: Lookup, read: ReadResult) -> Flight:
        """The flight of a caller's key: one under way that will do, or a new one."""
        key = lookup.keys.value
        while (flight := self.flights.find(key)) is not None:
            if not await self._is_current(flight, lookup, read):
                self.flights.forget(flight)
            elif not flight.task.cancelling():
                break
        if flight is None:
            check_captured(lookup.codec.policy, lookup.load)
            flight = self.flights.start(
                key,
                lambda flight: self._fill(flight, lookup, read),
                (key, *lookup.keys.versions),
            )
        return flight

    async def _is_current(self, flight: Flight, lookup: Lookup, read: ReadResult) -> bool:
        """Whether a flight's value will do for a caller who comes now.

        Not if an invalidation came in between: it deleted the lease that the flight works under, or
        gave a tag another version than the flight's.
        """
        if flight.token is None or not read.online:
            return True
        current = dict(zip(lookup.keys.versions, read.versions, strict=False))
        if any(current.get(name) != version for name, version in flight.versions.items()):
            return False
        try:
            (token,) = await self.store.read((lookup.keys.lease.encode(),))
        except CacheUnavailable:
            return True
        return token == flight.token

    async def _fill(self, flight: Flight, lookup: Lookup, read: ReadResult) -> CacheResult:
        keys, codec = lookup.keys, lookup.codec
        started, poll = monotonic(), _FIRST_POLL
        holder, since = b"", started
        while read.online:
            impatient = self._impatient.holds(keys.value)
            if impatient and (old := fallback(read)):
                return old
            request = LeaseRequest(keys, read)
            try:
                (reply,), versions = await self.filler.lease(codec, [request])
                if reply.outcome is LeaseOutcome.THROTTLED and fallback(read) is None:
                    # Nothing is left that could be served meanwhile: it protects nobody.
                    await self.store.delete([(keys.value, keys.lease)])
            except CacheUnavailable:
                break
            if reply.outcome is LeaseOutcome.GRANTED:
                _observe_wait(codec, started, poll)
                flight.token, flight.versions = request.token.encode(), versions
                filled = await self.filler.fill(
                    codec, {keys.value: request}, versions, lambda: _load(lookup)
                )
                return filled[keys.value]
            if reply.outcome is LeaseOutcome.THROTTLED and (old := fallback(read)):
                self._impatient.set(keys.value, min(reply.wait, _IMPATIENCE))
                return old
            if reply.holder != holder:  # the one before is done, or dead: this one has its time
                holder, since = reply.holder, monotonic()
            late = (
                impatient
                or read.miss_reason is Miss.NOT_KEPT  # what others load is not for this process
                or _is_late(started, since, codec.options.lease_wait)
            )
            if reply.outcome is LeaseOutcome.HELD and not late:
                await asyncio.sleep(poll * random.uniform(0.5, 1.5))
                poll = min(poll * 1.6, _LONGEST_POLL)
            read = await self.fetch(codec, keys)
            if (entry := read.entry) is not None and now_ms() < entry.stale_until:
                _observe_wait(codec, started, poll)
                return served(read, entry, Outcome.HIT)
            if reply.outcome is LeaseOutcome.HELD and late:
                # Whoever holds the lease is slow or gone; until it runs out this process does not
                # wait for it again.
                self._impatient.set(keys.value, reply.wait)
                if old := fallback(read):
                    return old
                flight.token, flight.versions = reply.holder, versions
                break
        loaded = await self.filler.load_only(
            codec, {keys.value: LeaseRequest(keys, read)}, lambda: _load(lookup)
        )
        return loaded[keys.value]


def _unread(unavailable: CacheUnavailable, at: float) -> ReadResult:
    return ReadResult(None, None, Miss.UNAVAILABLE, b"", online=not unavailable.outage, at=at)


async def _load(lookup: Lookup) -> Mapping[str, Any]:
    return {lookup.keys.value: await lookup.load()}


def _is_late(started: float, since: float, lease_wait: float) -> bool:
    """Whether the wait for one holder, or for several in a row, has been long enough."""
    now = monotonic()
    return now - since >= lease_wait or now - started >= 2 * lease_wait


def _observe_wait(codec: EntryCodec, started: float, poll: float) -> None:
    if poll > _FIRST_POLL:
        metrics.lease_wait_seconds.labels(codec.policy).observe(monotonic() - started)
