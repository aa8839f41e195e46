"""Filling entries: the lease before the load, the store after it, and no loose end in between.

What ends a fill (storing, or giving the lease back) is done also when the fill is cancelled, and
what Redis could not be told is left to the recovery. Every step takes one entry or many.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes, token_hex
from time import monotonic, time
from typing import Any, TypeVar

import structlog

from app.core.cache import metrics
from app.core.cache.entry import ID_SIZE, Entry, encode
from app.core.cache.keys import Address
from app.core.cache.recipe import Kind
from app.core.cache.recovery import Recovery
from app.core.cache.store import CacheStore, CacheUnavailable, LeaseReply
from app.core.serializers import NotStorable

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ask:
    """One entry that somebody wants to fill."""

    address: Address
    seen: bytes
    """The id of what is stored now, empty for nothing."""
    token: str


def ask(address: Address, seen: bytes) -> Ask:
    return Ask(address, seen, token_hex(8))


class Filler:
    """Leases, loaders and stores of one process."""

    def __init__(self, store: CacheStore, recovery: Recovery, *, max_loads: int) -> None:
        self._store = store
        self._recovery = recovery
        self._loads = asyncio.Semaphore(max_loads)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def lease(
        self, kind: Kind, asks: Sequence[Ask], known: Mapping[str, bytes | None]
    ) -> tuple[list[LeaseReply], dict[str, bytes]]:
        """Ask for leases. Returns an answer for each and the versions to store under, by name.

        Raises:
            CacheUnavailable: nothing was granted, as far as anybody can know.
        """
        missing = [name for name, version in known.items() if version is None]
        wanted = [(a.address, a.token, kind.options.lease_ttl, a.seen) for a in asks]
        asking = self.spawn(self._store.lease_many(wanted, missing))
        try:
            replies, created = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self.spawn(self._return_leases(asking, asks))
            raise
        except CacheUnavailable as unavailable:
            if unavailable.outage:  # the request may have arrived, only the reply is missing
                self._leave_to_recovery([a.address for a in asks])
            elif missing or len(asks) > 1:  # a part of it may have been refused, another granted
                self.spawn(self.give_up(asks, throttle=0))
            raise
        return replies, {name: version or created[name] for name, version in known.items()}

    async def load(self, kind: Kind, load: Callable[[], Awaitable[T]]) -> tuple[T, float]:
        """The loader's result and the seconds it took.

        Raises:
            TimeoutError: it took longer than `loader_timeout`, its turn included.
        """
        limit = kind.options.loader_timeout
        outcome, started = "error", monotonic()
        try:
            async with asyncio.timeout(limit) as deadline:
                async with self._loads:
                    started = monotonic()
                    result = await load()
            outcome = "ok"
        except TimeoutError as error:
            if not deadline.expired():
                raise
            outcome = "timeout"
            raise TimeoutError(f"loading {kind.policy!r} took more than {limit} s") from error
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            kind.observe_load(outcome, monotonic() - started)
        return result, monotonic() - started

    async def keep(
        self, kind: Kind, values: Sequence[tuple[Ask, Any]], cost: float, versions: bytes
    ) -> list[Entry]:
        """Store loaded values under their leases; `cost` in seconds. Returns their entries."""
        entries, full, empty = [], [], []
        for a, value in values:
            entry = _new_entry(kind, value, cost, versions)
            entries.append(entry)
            raw = self._encode(kind, a.address, entry, value)
            if raw is not None:
                ttl = (max(entry.stale_until, entry.error_until) - entry.created) / 1000
                full.append((a.address, a.token, raw, ttl))
            elif a.seen:  # what is there now has been overtaken: it goes, under the same lease
                full.append((a.address, a.token, b"", 0))
            else:
                empty.append(a)
        try:
            if full:
                await self._finish(self._save(kind, full), [address for address, *_ in full])
        finally:
            await self.give_up(empty, throttle=0)
        return entries

    async def give_up(self, asks: Sequence[Ask], *, throttle: float) -> None:
        """Return leases; for `throttle` seconds nobody else gets them."""
        if asks:
            leases = [(a.address, a.token) for a in asks]
            await self._finish(self._store.give_up(leases, throttle), [a.address for a in asks])

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something that is waited for at shutdown."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        return self._tasks

    async def _return_leases(self, asking: asyncio.Task[Any], asks: Sequence[Ask]) -> None:
        await asyncio.wait([asking])
        asking.exception()
        await self.give_up(asks, throttle=0)

    async def _save(self, kind: Kind, entries: Sequence[tuple[Address, str, bytes, float]]) -> None:
        for stored in await self._store.store_many(entries):
            metrics.stores.labels(kind.policy, "stored" if stored else "refused").inc()

    async def _finish(self, work: Coroutine[Any, Any, Any], addresses: Sequence[Address]) -> None:
        async def finish() -> None:
            try:
                await work
            except CacheUnavailable:
                # The leases may still be there, and would keep everybody waiting.
                self._leave_to_recovery(addresses)

        await asyncio.shield(self.spawn(finish()))

    def _leave_to_recovery(self, addresses: Sequence[Address]) -> None:
        for address in addresses:
            self._recovery.queue_entries([(address.value, address.lease)], address.versions[0])

    def _encode(self, kind: Kind, address: Address, entry: Entry, value: Any) -> bytes | None:
        """The bytes to store, or None if this value is not to be stored."""
        if entry.fresh_until <= entry.created:  # a negative_ttl of 0
            return None
        try:
            if not entry.negative:
                entry.payload = kind.codec.dumps(value, key=address.value.encode())
            return encode(
                entry,
                serializer=kind.serializer_format,
                schema=kind.codec.fingerprint,
                key=address.fingerprint,
                compress_from=kind.options.compress_from,
            )
        except NotStorable:
            metrics.stores.labels(kind.policy, "unstorable").inc()
            return None
        except ValueError as error:
            log.error("cache.not_stored", policy=kind.policy, error=str(error))
            metrics.stores.labels(kind.policy, "failed").inc()
            return None


def _new_entry(kind: Kind, value: Any, cost: float, versions: bytes) -> Entry:
    options, created = kind.options, round(time() * 1000)
    ttl = options.ttl
    if options.negative_ttl is not None and kind.is_negative(value):
        ttl = options.negative_ttl
    fresh_until = created + round(ttl * 1000 * (1 - random.uniform(0, options.jitter)))
    return Entry(
        id=token_bytes(ID_SIZE),
        created=created,
        fresh_until=fresh_until,
        stale_until=fresh_until + round(options.stale_while_revalidate * 1000),
        error_until=fresh_until + round(options.stale_if_error * 1000),
        cost=round(cost * 1000),
        versions=versions,
        negative=value is None,
        payload=b"",
    )
