"""Several entries of one policy at once: one read, one lease, one load, one store."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from app.core.cache.concurrency import Flight, without_slot
from app.core.cache.engine import Engine
from app.core.cache.entry import Miss
from app.core.cache.entry_codec import EntryCodec, Lookup
from app.core.cache.fill import LeaseRequest, fallbacks
from app.core.cache.keys import EntryKeys
from app.core.cache.loader_safety import check_captured
from app.core.cache.outage import CacheUnavailable
from app.core.cache.results import CacheResult, Outcome, ReadResult, now_ms
from app.core.cache.store import LeaseOutcome

K = TypeVar("K")


class ManyReader(Generic[K]):
    """What the keys of one call have in common."""

    def __init__(
        self,
        engine: Engine,
        codec: EntryCodec,
        entries: Mapping[K, EntryKeys],
        loader: Callable[[Sequence[K]], Awaitable[Mapping[K, Any]]],
    ) -> None:
        """`entries` have the same tags."""
        self._engine = engine
        self._codec = codec
        self._entries = entries
        self._loader = loader

    async def get(self) -> dict[K, Any]:
        """The values of all keys, in the order of `entries`."""
        if not self._entries:
            return {}
        now = now_ms()
        found: dict[K, Any] = {}
        due: dict[K, LeaseRequest] = {}
        missing: dict[K, LeaseRequest] = {}
        for key, read in (await self._read()).items():
            request, entry = LeaseRequest(self._entries[key], read), read.entry
            if entry is None or now >= entry.stale_until:
                if read.miss_reason is Miss.FUTURE:
                    self._engine.store.clock.saw_future()
                missing[key] = request
                continue
            found[key] = read.value
            fresh_until = entry.fresh_until
            fresh = Outcome.NEAR if read.near else Outcome.HIT
            self._codec.count(fresh if now < fresh_until else Outcome.STALE)
            if now >= fresh_until or self._codec.is_due(entry, now):
                due[key] = request
        if due:
            self._engine.refresher.start(self._codec, due, self._load)
        if missing:
            async with without_slot():
                found |= await self._fill(missing)
        return {key: found[key] for key in self._entries}

    async def _read(self) -> dict[K, ReadResult]:
        engine, codec = self._engine, self._codec
        found: dict[K, ReadResult] = {}
        elsewhere: dict[K, EntryKeys] = {}
        for key, keys in self._entries.items():
            if (read := engine.near(codec, keys)) is not None:
                found[key] = read
            else:
                elsewhere[key] = keys
        if elsewhere:
            fetched = await engine.fetch_many(codec, list(elsewhere.values()))
            found.update(zip(elsewhere, fetched, strict=True))
        return found

    async def _fill(self, requests: Mapping[K, LeaseRequest]) -> dict[K, Any]:
        """Load what this process may fill, wait for what others are filling already."""
        check_captured(self._codec.policy, self._loader)
        filler = self._engine.filler
        try:
            if not all(request.read.online for request in requests.values()):
                raise CacheUnavailable("the read failed", outage=True)
            replies, versions = await filler.lease(self._codec, list(requests.values()))
        except CacheUnavailable:
            return self._counted(requests, await self._load_together(requests))
        granted = {
            key: request
            for (key, request), reply in zip(requests.items(), replies, strict=True)
            if reply.outcome is LeaseOutcome.GRANTED
        }
        found: dict[K, Any] = {}
        if granted:
            found = self._counted(granted, await self._fill_granted(granted, versions))
        others = [key for key in requests if key not in granted]
        loaded = await asyncio.gather(*map(self._get_one, others))
        return found | dict(zip(others, loaded, strict=True))

    async def _fill_granted(
        self, granted: Mapping[K, LeaseRequest], versions: Mapping[str, bytes]
    ) -> dict[K, CacheResult]:
        flight = self._engine.flights.start(
            "\n".join(request.token for request in granted.values()),  # nobody joins it
            lambda _: self._engine.filler.fill(
                self._codec, granted, versions, lambda: self._load(list(granted))
            ),
            (),
        )
        return await self._landed(flight, granted)

    async def _load_together(self, requests: Mapping[K, LeaseRequest]) -> dict[K, CacheResult]:
        """Without leases: the calls of this process for the same entries share one load."""
        names = [request.keys.value for request in requests.values()]
        versions = next(iter(requests.values())).keys.versions
        # A flight of one entry has its name; what it gives is of another type.
        flights, key = self._engine.flights, "\n".join(("many", *names))
        while True:
            if (flight := flights.find(key)) is None:
                flight = flights.start(
                    key,
                    lambda _: self._engine.filler.load_only(
                        self._codec, requests, lambda: self._load(list(requests))
                    ),
                    (*names, *versions),
                )
            loaded = await self._landed(flight, requests)
            if all(
                not request.read.online or loaded[wanted].as_of >= request.read.at
                for wanted, request in requests.items()
            ):
                return loaded
            # It began before this caller came, who may know of an invalidation since.
            flights.forget(flight)
            if any(one.outcome is Outcome.STALE_ERROR for one in loaded.values()) and (
                old := fallbacks(requests)
            ):
                return old

    async def _landed(
        self, flight: Flight, requests: Mapping[K, LeaseRequest]
    ) -> dict[K, CacheResult]:
        """What a flight gives or, if it takes long, the old values where there are all."""
        if (
            fallbacks(requests) is not None
            and not await flight.lands_within(self._codec.options.error_patience)
            and (old := fallbacks(requests)) is not None
        ):
            return old
        loaded: dict[K, CacheResult] = await flight.wait()
        return loaded

    async def _load(self, keys: Sequence[K]) -> Mapping[K, Any]:
        values = await self._loader(keys)
        if not isinstance(values, Mapping):
            raise TypeError(
                f"the loader of many {self._codec.policy!r} has to return a mapping of keys to "
                f"values, not a {type(values).__name__}"
            )
        return values

    async def _get_one(self, key: K) -> Any:
        async def load() -> Any:
            return (await self._load([key])).get(key)

        loaded = await self._engine.get(Lookup(self._codec, self._entries[key], load))
        return loaded.value

    def _counted(
        self, requests: Mapping[K, LeaseRequest], loaded: Mapping[K, CacheResult]
    ) -> dict[K, Any]:
        for key, one in loaded.items():
            self._codec.count(one.outcome)
            if one.outcome is Outcome.MISS:
                self._codec.count_miss(requests[key].read.miss_reason or Miss.EXPIRED)
        return {key: one.value for key, one in loaded.items()}
