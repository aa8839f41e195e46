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
from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from dataclasses import replace
from time import monotonic, time
from typing import Any

import structlog

from app.core.cache import early, metrics
from app.core.cache.backoff import Backoff
from app.core.cache.entry import Entry, Miss, decode, entry_id
from app.core.cache.fill import Ask, Filler, ask
from app.core.cache.flight import Flight, SingleFlight
from app.core.cache.keys import Address
from app.core.cache.near import NearCache
from app.core.cache.recipe import Kind, Loaded, Outcome, Recipe, Seen
from app.core.cache.store import CacheStore, CacheUnavailable, Grant
from app.core.serializers import DecodeError, SignatureError

log = structlog.get_logger(__name__)

_FIRST_POLL = 0.02
_LONGEST_POLL = 0.25
_DENIED_PAUSE = 0.25


class Engine:
    """Reads, fills and refreshes entries; one per process."""

    def __init__(
        self, store: CacheStore, filler: Filler, near: NearCache | None, *, max_refreshes: int
    ) -> None:
        """A refresh too many is left out, not queued: the next read asks again."""
        self.store = store
        self.filler = filler
        self._near = near
        context = copy_context()
        self._flights = SingleFlight(context)
        self._refreshes = SingleFlight(context)
        self._max_refreshes = max_refreshes
        self._impatient = Backoff()
        self._denied = Backoff()

    async def get(self, recipe: Recipe, seen: Seen | None = None) -> Loaded:
        """The value of a recipe; `seen` is what the caller has read already."""
        if seen is None:
            seen = await self.read(recipe.kind, recipe.address)
        kind = recipe.kind
        if (entry := seen.entry) is not None:
            now = _now()
            if now < entry.fresh_until:
                ttl, beta = kind.options.ttl, kind.options.early_refresh
                if early.is_due(now, entry.fresh_until, entry.cost, ttl, beta):
                    self._refresh(recipe, seen)
                outcome = Outcome.NEAR if seen.near else Outcome.HIT
                kind.count(outcome)
                return _loaded(seen, entry, outcome)
            if now < entry.stale_until:
                self._refresh(recipe, seen)
                kind.count(Outcome.STALE)
                return _loaded(seen, entry, Outcome.STALE)
        loaded = await self._join(recipe, seen)
        kind.count(loaded.outcome)
        if loaded.outcome is Outcome.MISS:
            kind.count_miss(seen.reason or Miss.EXPIRED)
        return loaded

    async def read(self, kind: Kind, address: Address) -> Seen:
        """What the near cache or Redis holds at an address."""
        near = self._near if kind.options.near_ttl else None
        if near is not None:
            if (kept := near.get(address.value)) is not None:
                return _copy(kind, address, kept)
            generation = near.generation(address.value)
        try:
            raw, *versions = await self.store.read((address.value, *address.versions))
        except CacheUnavailable as unavailable:
            return Seen(None, None, Miss.UNAVAILABLE, b"", online=not unavailable.outage)
        seen = self.inspect(kind, address, raw, versions)
        if near is not None:
            near.put(kind, address, seen, generation)
        return seen

    def inspect(
        self, kind: Kind, address: Address, raw: bytes | None, versions: Sequence[bytes | None]
    ) -> Seen:
        """Make sense of what was read."""
        named = dict(zip(address.versions, versions, strict=True))
        known = [version for version in versions if version is not None]
        entry = decode(
            raw,
            serializer=kind.serializer_format,
            schema=kind.codec.fingerprint,
            key=address.fingerprint,
            versions=b"".join(known) if len(known) == len(versions) else None,
        )
        if isinstance(entry, Miss):
            return Seen(None, None, entry, entry_id(raw), named)
        if entry.negative:
            return Seen(entry, None, None, entry.id, named)
        try:
            value = kind.codec.loads(entry.payload, key=address.value.encode())
        except SignatureError:
            return Seen(None, None, Miss.SIGNATURE, entry.id, named)
        except DecodeError:
            return Seen(None, None, Miss.CORRUPT, entry.id, named)
        return Seen(entry, value, None, entry.id, named)

    def forget(self, key: str) -> None:
        """Callers from now on do not join the load of `key` that is under way."""
        self._flights.forget(key)

    def forget_dependent(self, names: Sequence[str]) -> None:
        """The same for all loads that depend on a policy or tag."""
        self._flights.forget_dependent(names)

    async def drain(self, patience: float) -> None:
        """Let loads and stores finish for `patience` seconds, then cancel what is left."""
        if loads := self._flights.tasks | self._refreshes.tasks:
            _, late = await asyncio.wait(loads, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        while endings := self.filler.tasks:  # no longer than Redis may take to answer
            await asyncio.wait(endings)

    def refresh_many(self, kind: Kind, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start to refresh several entries at once, if there are not too many refreshes."""
        if len(self._refreshes.tasks) >= self._max_refreshes:
            metrics.refreshes.labels(kind.policy, "dropped").inc()
        else:
            self._refreshes.run(work())

    # In the foreground: somebody waits

    async def _join(self, recipe: Recipe, seen: Seen) -> Loaded:
        key = recipe.address.value
        while (flight := self._flights.find(key)) is not None:
            if not await self._is_current(flight, recipe, seen):
                if self._flights.find(key) is flight:
                    self._flights.forget(key)
            elif not flight.task.cancelling():
                break
        if flight is None:
            flight = self._flights.start(
                key, lambda flight: self._fill(flight, recipe, seen), recipe.address.versions
            )
        loaded: Loaded = await flight.wait()
        return loaded

    async def _is_current(self, flight: Flight, recipe: Recipe, seen: Seen) -> bool:
        """Whether a flight's value will do for a caller who comes now.

        Not if an invalidation came in between: it deleted the lease that the flight works under, or
        gave a tag another version than the flight's.
        """
        if flight.token is None or not seen.online:
            return True
        if any(seen.versions.get(name) != v for name, v in flight.versions.items()):
            return False
        try:
            (token,) = await self.store.read((recipe.address.lease,))
        except CacheUnavailable:
            return True
        return token == flight.token

    async def _fill(self, flight: Flight, recipe: Recipe, seen: Seen) -> Loaded:
        address, kind = recipe.address, recipe.kind
        started, poll = monotonic(), _FIRST_POLL
        while seen.online:
            impatient = self._impatient.holds(address.value)
            if impatient and (old := _fallback(seen)):
                return old
            wanted = ask(address, seen.id)
            try:
                (reply,), versions = await self.filler.lease(kind, [wanted], seen.versions)
                if reply.grant is Grant.THROTTLED and _fallback(seen) is None:
                    # Nothing is left that could be served meanwhile: it protects nobody.
                    await self.store.delete([(address.value, address.lease)])
            except CacheUnavailable:
                break
            if reply.grant is Grant.GRANTED:
                _observe_wait(kind, started, poll)
                return await self._load_and_keep(flight, recipe, seen, wanted, versions)
            if reply.grant is Grant.THROTTLED and (old := _fallback(seen)):
                self._impatient.set(address.value, min(reply.wait, _DENIED_PAUSE))
                return old
            late = impatient or monotonic() - started >= kind.options.lease_wait
            if reply.grant is Grant.TAKEN and not late:
                await asyncio.sleep(poll * random.uniform(0.5, 1.5))
                poll = min(poll * 1.6, _LONGEST_POLL)
            seen = await self.read(kind, address)
            if (entry := seen.entry) is not None and _now() < entry.stale_until:
                _observe_wait(kind, started, poll)
                return _loaded(seen, entry, Outcome.HIT)
            if reply.grant is Grant.TAKEN and late:
                # Whoever holds the lease is slow or gone; until it runs out this process does not
                # wait for it again.
                self._impatient.set(address.value, reply.wait)
                if old := _fallback(seen):
                    return old
                flight.token, flight.versions = reply.holder, versions
                break
        return await self._load_only(recipe, seen)

    async def _load_only(self, recipe: Recipe, seen: Seen) -> Loaded:
        try:
            value, _ = await self.filler.load(recipe.kind, recipe.load)
        except Exception as error:
            if (old := _fallback(seen)) is None:
                raise
            log.warning("cache.load_failed", policy=recipe.kind.policy, error=repr(error))
            return old
        return Loaded(value, Outcome.MISS, _now(), _now())

    async def _load_and_keep(
        self, flight: Flight, recipe: Recipe, seen: Seen, granted: Ask, versions: dict[str, bytes]
    ) -> Loaded:
        kind = recipe.kind
        flight.token, flight.versions = granted.token.encode(), versions
        try:
            value, cost = await self.filler.load(kind, recipe.load)
        except BaseException as error:
            old = _fallback(seen) if isinstance(error, Exception) else None
            throttle = kind.options.error_throttle if old else 0
            await self.filler.give_up([granted], throttle=throttle)
            if old is None:
                raise
            log.warning("cache.load_failed", policy=kind.policy, error=repr(error))
            return old
        (entry,) = await self.filler.keep(
            kind, [(granted, value)], cost, b"".join(versions.values())
        )
        return Loaded(value, Outcome.MISS, entry.created, entry.fresh_until)

    # In the background: nobody waits

    def _refresh(self, recipe: Recipe, seen: Seen) -> None:
        key = recipe.address.value
        if self._refreshes.find(key) is not None or self._denied.holds(key):
            return
        if len(self._refreshes.tasks) >= self._max_refreshes:
            metrics.refreshes.labels(recipe.kind.policy, "dropped").inc()
            return
        self._refreshes.start(key, lambda flight: self._refresh_once(flight, recipe, seen))

    async def _refresh_once(self, flight: Flight, recipe: Recipe, seen: Seen) -> None:
        kind, address = recipe.kind, recipe.address
        wanted, outcome = ask(address, seen.id), "failed"
        try:
            (reply,), versions = await self.filler.lease(kind, [wanted], seen.versions)
            if reply.grant is Grant.GRANTED:
                loaded = await self._load_and_keep(flight, recipe, seen, wanted, versions)
                outcome = "done" if loaded.outcome is Outcome.MISS else "failed"
            else:
                outcome = "denied"
                self._denied.set(address.value, _DENIED_PAUSE)
        except CacheUnavailable:
            self._denied.set(address.value, _DENIED_PAUSE)
        except Exception as error:
            self._denied.set(address.value, _DENIED_PAUSE)
            log.warning("cache.refresh_failed", policy=kind.policy, error=repr(error))
        finally:
            metrics.refreshes.labels(kind.policy, outcome).inc()


def _copy(kind: Kind, address: Address, kept: Seen) -> Seen:
    """What is kept near, with a value of its own where callers might change it."""
    value, entry = kept.value, kept.entry
    if entry is not None and not entry.negative and not kind.codec.shareable:
        value = kind.codec.loads(entry.payload, key=address.value.encode())
    return replace(kept, value=value, near=True)


def _now() -> int:
    return int(time() * 1000)


def _loaded(seen: Seen, entry: Entry, outcome: Outcome) -> Loaded:
    return Loaded(seen.value, outcome, entry.created, entry.fresh_until)


def _fallback(seen: Seen) -> Loaded | None:
    """The old value, where it may be served because there is no new one."""
    entry = seen.entry
    if entry is not None and _now() < max(entry.stale_until, entry.error_until):
        return _loaded(seen, entry, Outcome.STALE_ERROR)
    return None


def _observe_wait(kind: Kind, started: float, poll: float) -> None:
    if poll > _FIRST_POLL:
        metrics.lease_wait_seconds.labels(kind.policy).observe(monotonic() - started)
