"""Several entries of one policy at once: one read, one lease, one load, one store."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import time
from typing import Any, Generic, TypeVar

import structlog

from app.core.cache.engine import Engine
from app.core.cache.entry import Miss
from app.core.cache.fill import Ask, ask
from app.core.cache.keys import Address
from app.core.cache.recipe import Kind, Outcome, Recipe, Seen
from app.core.cache.store import CacheUnavailable, Grant

K = TypeVar("K")

log = structlog.get_logger(__name__)

Load = Callable[[Sequence[K]], Awaitable[Mapping[K, Any]]]


async def get_many(
    engine: Engine, kind: Kind, addresses: Mapping[K, Address], load: Load[K]
) -> dict[K, Any]:
    """The values of all keys, in the order of `addresses`."""
    if not addresses:
        return {}
    seen = await _read(engine, kind, addresses)
    now = time() * 1000
    found: dict[K, Any] = {}
    stale, missing = [], []
    for key, one in seen.items():
        if one.entry is not None and now < one.entry.stale_until:
            fresh = now < one.entry.fresh_until
            kind.count(Outcome.HIT if fresh else Outcome.STALE)
            found[key] = one.value
            if not fresh:
                stale.append(key)
        else:
            kind.count(Outcome.MISS)
            kind.count_miss(one.reason or Miss.EXPIRED)
            missing.append(key)
    filling = _Filling(engine, kind, addresses, seen, load)
    if stale:
        engine.refresh_many(kind, lambda: filling.refresh(stale))
    if missing:
        found |= await filling.fill(missing)
    return {key: found[key] for key in addresses}


async def _read(engine: Engine, kind: Kind, addresses: Mapping[K, Address]) -> dict[K, Seen]:
    values = [address.value for address in addresses.values()]
    versions = next(iter(addresses.values())).versions  # of one policy and the same tags
    try:
        raw = await engine.store.read((*values, *versions))
    except CacheUnavailable as unavailable:
        away = Seen(None, None, Miss.UNAVAILABLE, b"", online=not unavailable.outage)
        return dict.fromkeys(addresses, away)
    current = raw[len(values) :]
    return {
        key: engine.inspect(kind, address, one, current)
        for (key, address), one in zip(addresses.items(), raw, strict=False)
    }


class _Filling(Generic[K]):
    """What the keys of one call have in common."""

    def __init__(
        self,
        engine: Engine,
        kind: Kind,
        addresses: Mapping[K, Address],
        seen: Mapping[K, Seen],
        load: Load[K],
    ) -> None:
        self._engine = engine
        self._kind = kind
        self._addresses = addresses
        self._seen = seen
        self._load = load

    async def fill(self, keys: Sequence[K]) -> dict[K, Any]:
        """Load what this process may fill, wait for what others are filling already."""
        try:
            granted, versions = await self._lease(keys)
        except CacheUnavailable:
            values, _ = await self._engine.filler.load(self._kind, lambda: self._load(keys))
            return {key: values.get(key) for key in keys}
        found = await self._load_and_keep(granted, versions) if granted else {}
        others = [key for key in keys if key not in granted]
        loaded = await asyncio.gather(*map(self._get_one, others))
        return found | dict(zip(others, loaded, strict=True))

    async def refresh(self, keys: Sequence[K]) -> None:
        """Load anew what nobody else is loading."""
        try:
            granted, versions = await self._lease(keys)
            if granted:
                await self._load_and_keep(granted, versions)
        except CacheUnavailable:
            return
        except Exception as error:
            log.warning("cache.refresh_failed", policy=self._kind.policy, error=repr(error))

    async def _lease(self, keys: Sequence[K]) -> tuple[dict[K, Ask], dict[str, bytes]]:
        asks = [ask(self._addresses[key], self._seen[key].id) for key in keys]
        if not self._seen[keys[0]].online:
            raise CacheUnavailable("the read failed", outage=True)
        replies, versions = await self._engine.filler.lease(
            self._kind, asks, self._seen[keys[0]].versions
        )
        granted = {
            key: one
            for key, one, reply in zip(keys, asks, replies, strict=True)
            if reply.grant is Grant.GRANTED
        }
        return granted, versions

    async def _load_and_keep(
        self, granted: Mapping[K, Ask], versions: Mapping[str, bytes]
    ) -> dict[K, Any]:
        filler = self._engine.filler
        try:
            values, cost = await filler.load(self._kind, lambda: self._load(list(granted)))
        except BaseException as error:
            if not isinstance(error, Exception) or not (old := self._old(granted)):
                await filler.give_up(list(granted.values()), throttle=0)
                raise
            throttle = self._kind.options.error_throttle
            await filler.give_up(list(granted.values()), throttle=throttle)
            log.warning("cache.load_failed", policy=self._kind.policy, error=repr(error))
            return old
        loaded = {key: values.get(key) for key in granted}
        kept = [(granted[key], value) for key, value in loaded.items()]
        await filler.keep(self._kind, kept, cost, b"".join(versions.values()))
        return loaded

    def _old(self, keys: Iterable[K]) -> dict[K, Any] | None:
        """The old values, if every one of them may still be served."""
        now, old = time() * 1000, {}
        for key in keys:
            seen = self._seen[key]
            if seen.entry is None or now >= seen.entry.error_until:
                return None
            old[key] = seen.value
        return old

    async def _get_one(self, key: K) -> Any:
        async def load() -> Any:
            return (await self._load([key])).get(key)

        loaded = await self._engine.get(Recipe(self._kind, self._addresses[key], load))
        return loaded.value
