"""The read path of the cache: from a recipe to a value.

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
from app.core.cache.concurrency import Backoff, Flight, SingleFlight, waiting
from app.core.cache.decode_memo import Decoded
from app.core.cache.entry import Miss
from app.core.cache.entry_codec import Kind, Recipe
from app.core.cache.fill import Ask, Filler
from app.core.cache.keys import Address
from app.core.cache.loader_safety import check_captured
from app.core.cache.near import NearCache
from app.core.cache.outage import CacheUnavailable
from app.core.cache.refresh import Refresher
from app.core.cache.results import Loaded, Outcome, Seen, fallback, now_ms, served
from app.core.cache.store import CacheStore, Grant

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
        self._decoded = Decoded()
        context = copy_context()
        self.flights = SingleFlight(context)
        self.refresher = Refresher(filler, context, most=max_refreshes)
        self._impatient = Backoff()

    async def get(self, recipe: Recipe, seen: Seen | None = None) -> Loaded:
        """The value of a recipe; `seen` is what the caller has read already."""
        kind = recipe.kind
        if seen is None:
            seen = self.near(kind, recipe.address) or await self.fetch(kind, recipe.address)
        if (entry := seen.entry) is not None:
            now = now_ms()
            if now < entry.fresh_until:
                if kind.is_due(entry, now):
                    self._refresh(recipe, seen)
                outcome = Outcome.NEAR if seen.near else Outcome.HIT
                kind.count(outcome)
                return served(seen, entry, outcome)
            if now < entry.stale_until:
                self._refresh(recipe, seen)
                kind.count(Outcome.STALE)
                return served(seen, entry, Outcome.STALE)
        if seen.reason is Miss.FUTURE:
            self.store.clock.saw_future()
        async with waiting():
            loaded = await self._join(recipe, seen)
        kind.count(loaded.outcome)
        if loaded.outcome is Outcome.MISS:
            kind.count_miss(seen.reason or Miss.EXPIRED)
        return loaded

    def near(self, kind: Kind, address: Address) -> Seen | None:
        """What the near cache holds at an address."""
        if self._near is None or not kind.options.near_ttl:
            return None
        kept = self._near.get(address.value)
        if kept is None or kept.entry is None or kind.codec.shareable:
            return kept
        # Callers might change the value: each gets one of its own.
        return replace(kept, value=kind.load_payload(kept.entry, address))

    async def fetch(self, kind: Kind, address: Address) -> Seen:
        """What Redis holds at an address; the near cache keeps it."""
        near = self._near if kind.options.near_ttl else None
        generation = near.generation(address.value) if near is not None else (0, 0)
        at = monotonic()
        try:
            raw, *versions = await self.store.read(address.read_keys)
        except CacheUnavailable as unavailable:
            return _unread(unavailable, at)
        if near is None:
            return self._decoded.unpack(kind, address, raw, versions, at=at)
        seen = kind.unpack(address, raw, versions, at=at)
        near.put(kind, address, seen, generation)
        return seen

    async def fetch_many(self, kind: Kind, addresses: Sequence[Address]) -> list[Seen]:
        """`fetch` for several entries of the same tags, in one round trip."""
        near = self._near if kind.options.near_ttl else None
        values = [address.value for address in addresses]
        generations = [(0, 0) if near is None else near.generation(key) for key in values]
        keys = [*(key.encode() for key in values), *addresses[0].read_keys[1:]]
        at = monotonic()
        try:
            raw = await self.store.read(keys)
        except CacheUnavailable as unavailable:
            return [_unread(unavailable, at)] * len(addresses)
        versions = raw[len(values) :]
        found = []
        for address, one, generation in zip(addresses, raw, generations, strict=False):
            if near is None:
                seen = self._decoded.unpack(kind, address, one, versions, at=at)
            else:
                seen = kind.unpack(address, one, versions, at=at)
                near.put(kind, address, seen, generation)
            found.append(seen)
        return found

    async def refresh(self, recipe: Recipe) -> Loaded:
        """Load a value now, and keep it instead of the old one.

        Who reads meanwhile gets the old value, as if nobody refreshed it. When the load fails the
        old one stays.

        Raises:
            Exception: what the loader raised.
        """
        check_captured(recipe.kind.policy, recipe.load)
        # Callers from now on do not join a load that began before; nobody joins this one, either.
        self.forget([recipe.address.value])
        flight = self.flights.start(token_hex(8), lambda _: self._replace(recipe), ())
        outcome = "failed"
        try:
            async with waiting():
                loaded: Loaded = await flight.wait()
            outcome = "done"
        finally:
            metrics.refreshes.labels(recipe.kind.policy, outcome).inc()
        return loaded

    def forget(self, names: Iterable[str]) -> None:
        """Callers from now on do not join loads under way of these entries, policies or tags."""
        self.flights.forget_dependent(names)

    async def drain(self, patience: float) -> None:
        """Let loads and stores finish for `patience` seconds, then cancel what is left."""
        end = monotonic() + patience
        while loads := self.flights.tasks | self.refresher.tasks:  # a load may begin another one
            _, late = await asyncio.wait(loads, timeout=max(end - monotonic(), 0))
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        while endings := self.filler.tasks:  # no longer than Redis may take to answer
            await asyncio.wait(endings)

    def _refresh(self, recipe: Recipe, seen: Seen) -> None:
        asks = {recipe.address.value: Ask(recipe.address, seen)}
        self.refresher.start(recipe.kind, asks, lambda _: _load(recipe))

    async def _replace(self, recipe: Recipe) -> Loaded:
        kind, address = recipe.kind, recipe.address
        # The old value is nothing to fall back on: the caller wants to know of an error.
        seen = replace(await self.fetch(kind, address), entry=None)
        ask = Ask(address, seen, is_wanted=True)
        asks = {address.value: ask}
        try:
            if not seen.online:
                raise CacheUnavailable("the read failed", outage=True)
            _, versions = await self.filler.lease(kind, [ask], take=True)
        except CacheUnavailable:
            loaded = await self.filler.load_only(kind, asks, lambda: _load(recipe))
            self.filler.remove_later([address])  # it has been overtaken
        else:
            loaded = await self.filler.fill(kind, asks, versions, lambda: _load(recipe))
            with suppress(CacheUnavailable):  # then other near caches keep the old one for near_ttl
                await self.store.announce([address.value])
        if self._near is not None:
            self._near.invalidate([address.value])
        return loaded[address.value]

    async def _join(self, recipe: Recipe, seen: Seen) -> Loaded:
        while True:
            flight = await self._flight(recipe, seen)
            checked = flight.token is not None
            if (
                fallback(seen) is not None
                and not await flight.lands(recipe.kind.options.error_patience)
                and (old := fallback(seen)) is not None
            ):
                return old
            loaded: Loaded = await flight.wait()
            if checked or not seen.online or loaded.as_of >= seen.at:
                return loaded
            # It answered with what it had read before this caller came, who knows better.
            self.flights.forget(flight)
            if loaded.outcome is Outcome.STALE_ERROR and (old := fallback(seen)):
                return old

    async def _flight(self, recipe: Recipe, seen: Seen) -> Flight:
        """The flight of a caller's key: one under way that will do, or a new one."""
        key = recipe.address.value
        while (flight := self.flights.find(key)) is not None:
            if not await self._is_current(flight, recipe, seen):
                self.flights.forget(flight)
            elif not flight.task.cancelling():
                break
        if flight is None:
            check_captured(recipe.kind.policy, recipe.load)
            flight = self.flights.start(
                key,
                lambda flight: self._fill(flight, recipe, seen),
                (key, *recipe.address.versions),
            )
        return flight

    async def _is_current(self, flight: Flight, recipe: Recipe, seen: Seen) -> bool:
        """Whether a flight's value will do for a caller who comes now.

        Not if an invalidation came in between: it deleted the lease that the flight works under, or
        gave a tag another version than the flight's.
        """
        if flight.token is None or not seen.online:
            return True
        current = dict(zip(recipe.address.versions, seen.versions, strict=False))
        if any(current.get(name) != version for name, version in flight.versions.items()):
            return False
        try:
            (token,) = await self.store.read((recipe.address.lease.encode(),))
        except CacheUnavailable:
            return True
        return token == flight.token

    async def _fill(self, flight: Flight, recipe: Recipe, seen: Seen) -> Loaded:
        address, kind = recipe.address, recipe.kind
        started, poll = monotonic(), _FIRST_POLL
        holder, since = b"", started
        while seen.online:
            impatient = self._impatient.holds(address.value)
            if impatient and (old := fallback(seen)):
                return old
            ask = Ask(address, seen)
            try:
                (reply,), versions = await self.filler.lease(kind, [ask])
                if reply.grant is Grant.THROTTLED and fallback(seen) is None:
                    # Nothing is left that could be served meanwhile: it protects nobody.
                    await self.store.delete([(address.value, address.lease)])
            except CacheUnavailable:
                break
            if reply.grant is Grant.GRANTED:
                _observe_wait(kind, started, poll)
                flight.token, flight.versions = ask.token.encode(), versions
                filled = await self.filler.fill(
                    kind, {address.value: ask}, versions, lambda: _load(recipe)
                )
                return filled[address.value]
            if reply.grant is Grant.THROTTLED and (old := fallback(seen)):
                self._impatient.set(address.value, min(reply.wait, _IMPATIENCE))
                return old
            if reply.holder != holder:  # the one before is done, or dead: this one has its time
                holder, since = reply.holder, monotonic()
            late = impatient or _is_late(started, since, kind.options.lease_wait)
            if reply.grant is Grant.TAKEN and not late:
                await asyncio.sleep(poll * random.uniform(0.5, 1.5))
                poll = min(poll * 1.6, _LONGEST_POLL)
            seen = await self.fetch(kind, address)
            if (entry := seen.entry) is not None and now_ms() < entry.stale_until:
                _observe_wait(kind, started, poll)
                return served(seen, entry, Outcome.HIT)
            if reply.grant is Grant.TAKEN and late:
                # Whoever holds the lease is slow or gone; until it runs out this process does not
                # wait for it again.
                self._impatient.set(address.value, reply.wait)
                if old := fallback(seen):
                    return old
                flight.token, flight.versions = reply.holder, versions
                break
        loaded = await self.filler.load_only(
            kind, {address.value: Ask(address, seen)}, lambda: _load(recipe)
        )
        return loaded[address.value]


def _unread(unavailable: CacheUnavailable, at: float) -> Seen:
    return Seen(None, None, Miss.UNAVAILABLE, b"", online=not unavailable.outage, at=at)


async def _load(recipe: Recipe) -> Mapping[str, Any]:
    return {recipe.address.value: await recipe.load()}


def _is_late(started: float, since: float, lease_wait: float) -> bool:
    """Whether the wait for one holder, or for several in a row, has been long enough."""
    now = monotonic()
    return now - since >= lease_wait or now - started >= 2 * lease_wait


def _observe_wait(kind: Kind, started: float, poll: float) -> None:
    if poll > _FIRST_POLL:
        metrics.lease_wait_seconds.labels(kind.policy).observe(monotonic() - started)
