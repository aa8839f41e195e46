"""Several entries of one policy at once: one read, one lease, one load, one store."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from app.core.cache.concurrency import Flight, waiting
from app.core.cache.engine import Engine
from app.core.cache.entry import Miss
from app.core.cache.entry_codec import Kind, Recipe
from app.core.cache.fill import Ask, fallbacks
from app.core.cache.keys import Address
from app.core.cache.loader_safety import check_captured
from app.core.cache.outage import CacheUnavailable
from app.core.cache.results import Loaded, Outcome, Seen, now_ms
from app.core.cache.store import Grant

K = TypeVar("K")


class ManyReader(Generic[K]):
    """What the keys of one call have in common."""

    def __init__(
        self,
        engine: Engine,
        kind: Kind,
        addresses: Mapping[K, Address],
        loader: Callable[[Sequence[K]], Awaitable[Mapping[K, Any]]],
    ) -> None:
        """`addresses` have the same tags."""
        self._engine = engine
        self._kind = kind
        self._addresses = addresses
        self._loader = loader

    async def get(self) -> dict[K, Any]:
        """The values of all keys, in the order of `addresses`."""
        if not self._addresses:
            return {}
        now = now_ms()
        found: dict[K, Any] = {}
        due: dict[K, Ask] = {}
        missing: dict[K, Ask] = {}
        for key, seen in (await self._read()).items():
            ask, entry = Ask(self._addresses[key], seen), seen.entry
            if entry is None or now >= entry.stale_until:
                if seen.reason is Miss.FUTURE:
                    self._engine.store.clock.saw_future()
                missing[key] = ask
                continue
            found[key] = seen.value
            fresh_until = entry.fresh_until
            fresh = Outcome.NEAR if seen.near else Outcome.HIT
            self._kind.count(fresh if now < fresh_until else Outcome.STALE)
            if now >= fresh_until or self._kind.is_due(entry, now):
                due[key] = ask
        if due:
            self._engine.refresher.start(self._kind, due, self._load)
        if missing:
            async with waiting():
                found |= await self._fill(missing)
        return {key: found[key] for key in self._addresses}

    async def _read(self) -> dict[K, Seen]:
        engine, kind = self._engine, self._kind
        found: dict[K, Seen] = {}
        elsewhere: dict[K, Address] = {}
        for key, address in self._addresses.items():
            if (seen := engine.near(kind, address)) is not None:
                found[key] = seen
            else:
                elsewhere[key] = address
        if elsewhere:
            fetched = await engine.fetch_many(kind, list(elsewhere.values()))
            found.update(zip(elsewhere, fetched, strict=True))
        return found

    async def _fill(self, asks: Mapping[K, Ask]) -> dict[K, Any]:
        """Load what this process may fill, wait for what others are filling already."""
        check_captured(self._kind.policy, self._loader)
        filler = self._engine.filler
        try:
            if not all(ask.seen.online for ask in asks.values()):
                raise CacheUnavailable("the read failed", outage=True)
            replies, versions = await filler.lease(self._kind, list(asks.values()))
        except CacheUnavailable:
            return self._counted(asks, await self._load_together(asks))
        granted = {
            key: ask
            for (key, ask), reply in zip(asks.items(), replies, strict=True)
            if reply.grant is Grant.GRANTED
        }
        found: dict[K, Any] = {}
        if granted:
            found = self._counted(granted, await self._fill_granted(granted, versions))
        others = [key for key in asks if key not in granted]
        loaded = await asyncio.gather(*map(self._get_one, others))
        return found | dict(zip(others, loaded, strict=True))

    async def _fill_granted(
        self, granted: Mapping[K, Ask], versions: Mapping[str, bytes]
    ) -> dict[K, Loaded]:
        flight = self._engine.flights.start(
            "\n".join(ask.token for ask in granted.values()),  # nobody joins it
            lambda _: self._engine.filler.fill(
                self._kind, granted, versions, lambda: self._load(list(granted))
            ),
            (),
        )
        return await self._landed(flight, granted)

    async def _load_together(self, asks: Mapping[K, Ask]) -> dict[K, Loaded]:
        """Without leases: the calls of this process for the same entries share one load."""
        names = [ask.address.value for ask in asks.values()]
        versions = next(iter(asks.values())).address.versions
        # A flight of one entry has its name; what it gives is of another type.
        flights, key = self._engine.flights, "\n".join(("many", *names))
        while True:
            if (flight := flights.find(key)) is None:
                flight = flights.start(
                    key,
                    lambda _: self._engine.filler.load_only(
                        self._kind, asks, lambda: self._load(list(asks))
                    ),
                    (*names, *versions),
                )
            loaded = await self._landed(flight, asks)
            if all(
                not ask.seen.online or loaded[wanted].as_of >= ask.seen.at
                for wanted, ask in asks.items()
            ):
                return loaded
            # It began before this caller came, who may know of an invalidation since.
            flights.forget(flight)
            if any(one.outcome is Outcome.STALE_ERROR for one in loaded.values()) and (
                old := fallbacks(asks)
            ):
                return old

    async def _landed(self, flight: Flight, asks: Mapping[K, Ask]) -> dict[K, Loaded]:
        """What a flight gives or, if it takes long, the old values where there are all."""
        if (
            fallbacks(asks) is not None
            and not await flight.lands(self._kind.options.error_patience)
            and (old := fallbacks(asks)) is not None
        ):
            return old
        loaded: dict[K, Loaded] = await flight.wait()
        return loaded

    async def _load(self, keys: Sequence[K]) -> Mapping[K, Any]:
        values = await self._loader(keys)
        if not isinstance(values, Mapping):
            raise TypeError(
                f"the loader of many {self._kind.policy!r} has to return a mapping of keys to "
                f"values, not a {type(values).__name__}"
            )
        return values

    async def _get_one(self, key: K) -> Any:
        async def load() -> Any:
            return (await self._load([key])).get(key)

        loaded = await self._engine.get(Recipe(self._kind, self._addresses[key], load))
        return loaded.value

    def _counted(self, asks: Mapping[K, Ask], loaded: Mapping[K, Loaded]) -> dict[K, Any]:
        for key, one in loaded.items():
            self._kind.count(one.outcome)
            if one.outcome is Outcome.MISS:
                self._kind.count_miss(asks[key].seen.reason or Miss.EXPIRED)
        return {key: one.value for key, one in loaded.items()}
