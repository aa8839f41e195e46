"""From a miss to a value: one load for all who miss the same entry, over all processes.

miss ── join the flight of this entry, or start one
          ├─ lease granted ── load ── store ──► value
          ├─ lease held by somebody else: wait, read again, in the end load for oneself
          └─ Redis away: load, do not store
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar

from app.core.cache import metrics
from app.core.cache.concurrency import Cooldown, Flight, SingleFlight
from app.core.cache.entry import Miss
from app.core.cache.entry_codec import EntryCodec
from app.core.cache.fill import Filler, fallbacks
from app.core.cache.keys import EntryKeys
from app.core.cache.loader_safety import check_captured
from app.core.cache.outage import CacheUnavailable
from app.core.cache.results import CacheResult, Outcome, ReadResult, fallback, now_ms, served
from app.core.cache.store import CacheStore, LeaseOutcome, LeaseRequest
from app.core.tasks import Tasks

K = TypeVar("K")

_FIRST_POLL_SECONDS = 0.02
_LONGEST_POLL_SECONDS = 0.25
_THROTTLED_SECONDS = 0.25
"""For so long a process does not ask again for the lease on an entry whose load has failed."""


@dataclass(slots=True)
class Lookup:
    """One value: where it is kept and how to make it."""

    codec: EntryCodec
    keys: EntryKeys
    loader: Callable[[], Awaitable[Any]]
    is_safe: bool = False
    """The loader was checked where it was declared; see `loader_safety`."""

    async def load(self, _: Sequence[str] = ()) -> Mapping[str, Any]:
        """Make the value, as a batch of one by the name of its entry."""
        return {self.keys.value: await self.loader()}


@dataclass(slots=True)
class BatchLookup(Generic[K]):
    """Values of one policy under the same tags."""

    codec: EntryCodec
    entries: Mapping[K, EntryKeys]
    loader: Callable[[Sequence[K]], Awaitable[Mapping[K, Any]]]

    async def load(self, keys: Sequence[K]) -> Mapping[K, Any]:
        """Make the values of some keys.

        Raises:
            TypeError: the loader does not return a mapping.
        """
        values = await self.loader(keys)
        if not isinstance(values, Mapping):
            raise TypeError(
                f"the loader of many {self.codec.policy!r} has to return a mapping of keys to "
                f"values, not a {type(values).__name__}"
            )
        return values

    def one(self, key: K) -> Lookup:
        """Return the lookup of one of the values; the loader gets only its key."""

        async def load() -> Any:
            return (await self.load([key])).get(key)

        return Lookup(self.codec, self.entries[key], load, is_safe=True)


class LoadCoordinator:
    """Has values loaded once for all who miss them."""

    def __init__(
        self,
        store: CacheStore,
        filler: Filler,
        tasks: Tasks,
        fetch: Callable[[EntryCodec, Sequence[EntryKeys]], Awaitable[list[ReadResult]]],
    ) -> None:
        """Run loads in `tasks`, and read entries from Redis with `fetch`."""
        self.flights = SingleFlight(tasks)
        self._store = store
        self._filler = filler
        self._fetch = fetch
        self._impatient = Cooldown()

    async def load(self, lookup: Lookup, read: ReadResult) -> CacheResult:
        """Return a value that was not to be had from the cache."""
        name = lookup.keys.value
        joined = await self._join(
            lookup.codec,
            {name: LeaseRequest(lookup.keys, read)},
            lambda: self._flight(lookup, read),
        )
        return joined[name]

    async def load_many(
        self, batch: BatchLookup[K], requests: Mapping[K, LeaseRequest]
    ) -> dict[K, CacheResult]:
        """Load what this process may fill, and wait for what others are filling already."""
        check_captured(batch.codec.policy, batch.loader)
        try:
            if not all(request.read.online for request in requests.values()):
                raise CacheUnavailable("the read failed", outage=True)
            replies, versions = await self._filler.lease(batch.codec, list(requests.values()))
        except CacheUnavailable:
            return await self._join(
                batch.codec, requests, lambda: self._flight_without_leases(batch, requests)
            )
        granted = {
            key: request
            for (key, request), reply in zip(requests.items(), replies, strict=True)
            if reply.outcome is LeaseOutcome.GRANTED
        }
        loaded = await self._load_granted(batch, granted, versions) if granted else {}
        others = [key for key in requests if key not in granted]
        waited_for = await asyncio.gather(
            *(self.load(batch.one(key), requests[key].read) for key in others)
        )
        return loaded | dict(zip(others, waited_for, strict=True))

    async def _join(
        self,
        codec: EntryCodec,
        requests: Mapping[K, LeaseRequest],
        find_flight: Callable[[], Awaitable[Flight]],
    ) -> dict[K, CacheResult]:
        """Return the results of a flight, if they are right for a caller who joined it.

        They are not if the flight had read them before the caller came, who may know of an
        invalidation since.
        """
        while True:
            flight = await find_flight()
            is_checked = flight.token is not None
            results = await _landed(flight, requests, codec.options.error_patience)
            if is_checked or all(
                not request.read.online or results[key].as_of >= request.read.at
                for key, request in requests.items()
            ):
                return results
            self.flights.forget(flight)
            if any(result.outcome is Outcome.STALE_ERROR for result in results.values()) and (
                old := fallbacks(requests)
            ):
                return old

    async def _flight(self, lookup: Lookup, read: ReadResult) -> Flight:
        """Return the flight of an entry: one under way that will do, or a new one."""
        name = lookup.keys.value
        while (flight := self.flights.find(name)) is not None:
            if not await self._is_current(flight, lookup, read):
                self.flights.forget(flight)
            elif not flight.task.cancelling():
                return flight
        if not lookup.is_safe:
            check_captured(lookup.codec.policy, lookup.loader)
        return self.flights.start(
            name,
            lambda flight: self._fill(flight, lookup, read),
            (name, *lookup.keys.versions),
        )

    async def _flight_without_leases(
        self, batch: BatchLookup[K], requests: Mapping[K, LeaseRequest]
    ) -> Flight:
        """Return the flight that the calls of this process for the same entries share."""
        names = [request.keys.value for request in requests.values()]
        name = "\n".join(("many", *names))  # not that of a flight of one entry
        if (flight := self.flights.find(name)) is not None:
            return flight
        return self.flights.start(
            name,
            lambda _: self._filler.load_only(
                batch.codec, requests, partial(batch.load, list(requests))
            ),
            (*names, *next(iter(requests.values())).keys.versions),
        )

    async def _load_granted(
        self,
        batch: BatchLookup[K],
        granted: Mapping[K, LeaseRequest],
        versions: Mapping[str, bytes],
    ) -> dict[K, CacheResult]:
        flight = self.flights.start(
            "\n".join(request.token for request in granted.values()),  # nobody joins it
            lambda _: self._filler.fill(
                batch.codec, granted, versions, partial(batch.load, list(granted))
            ),
            (),
        )
        return await _landed(flight, granted, batch.codec.options.error_patience)

    async def _is_current(self, flight: Flight, lookup: Lookup, read: ReadResult) -> bool:
        """Return whether a flight's value will do for a caller who comes now.

        Not if an invalidation came in between: it deleted the lease that the flight works under, or
        gave a tag another version than the flight's.
        """
        if flight.token is None or not read.online:
            return True
        current = dict(zip(lookup.keys.versions, read.versions, strict=False))
        if any(current.get(name) != version for name, version in flight.versions.items()):
            return False
        try:
            (token,) = await self._store.read((lookup.keys.lease.encode(),))
        except CacheUnavailable:
            return True
        return token == flight.token

    async def _fill(
        self, flight: Flight, lookup: Lookup, read: ReadResult
    ) -> dict[str, CacheResult]:
        """Load an entry under a lease, or wait for whoever holds it."""
        keys, codec, name = lookup.keys, lookup.codec, lookup.keys.value
        started, poll = monotonic(), _FIRST_POLL_SECONDS
        holder, since = b"", started
        while read.online:
            impatient = self._impatient.holds(name)
            if impatient and (old := fallback(read)):
                return {name: old}
            request = LeaseRequest(keys, read)
            try:
                (reply,), versions = await self._filler.lease(codec, [request])
                if reply.outcome is LeaseOutcome.THROTTLED and fallback(read) is None:
                    # Nothing is left that could be served meanwhile: it protects nobody.
                    await self._store.delete([(name, keys.lease)])
            except CacheUnavailable:
                break
            if reply.outcome is LeaseOutcome.GRANTED:
                _observe_wait(codec, started, poll)
                flight.token, flight.versions = request.token.encode(), versions
                return await self._filler.fill(codec, {name: request}, versions, lookup.load)
            if reply.outcome is LeaseOutcome.THROTTLED and (old := fallback(read)):
                self._impatient.set(name, min(reply.wait, _THROTTLED_SECONDS))
                return {name: old}
            if reply.holder != holder:  # the one before is done, or dead: this one has its time
                holder, since = reply.holder, monotonic()
            late = (
                impatient
                or read.miss_reason is Miss.NOT_KEPT  # what others load is not for this process
                or _is_late(started, since, codec.options.lease_wait)
            )
            if reply.outcome is LeaseOutcome.HELD and not late:
                await asyncio.sleep(poll * random.uniform(0.5, 1.5))
                poll = min(poll * 1.6, _LONGEST_POLL_SECONDS)
            (read,) = await self._fetch(codec, (keys,))
            if (entry := read.entry) is not None and now_ms() < entry.stale_until:
                _observe_wait(codec, started, poll)
                return {name: served(read, entry, Outcome.HIT)}
            if reply.outcome is LeaseOutcome.HELD and late:
                # Whoever holds the lease is slow or gone; until it runs out this process does not
                # wait for it again.
                self._impatient.set(name, reply.wait)
                if old := fallback(read):
                    return {name: old}
                flight.token, flight.versions = reply.holder, versions
                break
        return await self._filler.load_only(codec, {name: LeaseRequest(keys, read)}, lookup.load)


class UnsharedLoads:
    """Has every caller load for itself, and keeps nothing: for a cache that is switched off."""

    def __init__(self, filler: Filler) -> None:
        self._filler = filler

    async def load(self, lookup: Lookup, read: ReadResult) -> CacheResult:
        """Return a value; see `LoadCoordinator.load`."""
        request = {lookup.keys.value: LeaseRequest(lookup.keys, read)}
        return (await self._filler.load_only(lookup.codec, request, lookup.load))[lookup.keys.value]

    async def load_many(
        self, batch: BatchLookup[K], requests: Mapping[K, LeaseRequest]
    ) -> dict[K, CacheResult]:
        """Return values; see `LoadCoordinator.load_many`."""
        load = partial(batch.load, list(requests))
        return await self._filler.load_only(batch.codec, requests, load)


async def _landed(
    flight: Flight, requests: Mapping[K, LeaseRequest], patience: float
) -> dict[K, CacheResult]:
    """Return the results of a flight or, if it takes long and there are all, the old values."""
    if (
        fallbacks(requests) is not None
        and not await flight.lands_within(patience)
        and (old := fallbacks(requests)) is not None
    ):
        return old
    results: dict[K, CacheResult] = await flight.wait()
    return results


def _is_late(started: float, since: float, lease_wait: float) -> bool:
    """Return whether the wait for one holder, or for several in a row, has been long enough."""
    now = monotonic()
    return now - since >= lease_wait or now - started >= 2 * lease_wait


def _observe_wait(codec: EntryCodec, started: float, poll: float) -> None:
    if poll > _FIRST_POLL_SECONDS:
        metrics.lease_wait_seconds.labels(codec.policy).observe(monotonic() - started)
