"""`Locks`: the part that a service uses."""

import asyncio
import math
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from app.core.locks import metrics
from app.core.locks.errors import LockError, LockTimeout, LockUnavailable
from app.core.locks.hold import Hold, Holders
from app.core.locks.lease import Lease
from app.core.locks.store import (
    Claim,
    Granted,
    LockStore,
    NodeError,
    Reason,
    Refused,
    StoreOptions,
)
from app.core.locks.waiting import Bulkhead, LocalQueue, ReleaseNotifier, contend
from app.core.locks.watchdog import Watchdog
from app.core.read_scope import read_fresh
from app.core.tasks import Tasks

_MIN_TTL = 0.1
_MAX_NAME_BYTES = 512
_DAY = 86_400.0
_CONNECT_TIMEOUT = 1.0
"""Seconds that opening, or an attempt during a quarantine, waits at most for the servers."""
_DRAIN_TIMEOUT = 2.0
"""Seconds that closing waits for blocks to end, and then for commands to the servers."""
_SLOT_TIMEOUT = 5.0
"""Seconds that a release or `try_acquire` is queued behind other commands of the process."""
_GRACE = 0.5
"""Seconds after its timeout for which the last attempt of a `hold` stays in that queue."""


class Locks:
    """Locks that processes share, on one Redis or on a quorum of them, as the store decides.

        async with Locks(Node(client), prefix="orders:lock") as locks:
            async with locks.hold("invoice:42", ttl=10, timeout=5) as lease:
                ...

    A process that waits asks the servers once and then sleeps until a release is published, so
    contention costs no polling. Its tasks are served in the order in which they asked. Whatever was
    sent to the servers is finished or undone in the background if the caller is cancelled.
    """

    def __init__(
        self,
        store: LockStore,
        *,
        prefix: str,
        max_ttl: float = 30.0,
        max_hold: float = 600.0,
        quarantine: float | None = None,
        fence_ttl: float = _DAY,
    ) -> None:
        """Do no I/O. All times are in seconds.

        Args:
            store: `Node` or `RedlockStore`.
            prefix: begins every key; with the name of the service, services can share a server.
            max_ttl: the longest ttl that a caller may ask for.
            max_hold: the longest that a `hold` is renewed; then its body is cancelled.
            quarantine: how long a server that may have forgotten locks (restarted, flushed,
                promoted, or seen for the first time) refuses all, so that it cannot grant one that
                is still held. None means `max_ttl`, the safe value for production: it costs one
                wait of that length after a failover and at the very first deployment; a quorum
                waits only if a majority forgets at once. 0 is for development and tests, where
                servers are always new and a forgotten lock does no harm.
            fence_ttl: how long a fence is remembered after the last grant of its name. After that
                the server's clock alone keeps fences growing.

        Raises:
            ValueError: an argument is out of range.
        """
        _check_prefix(prefix)
        _check_seconds("max_ttl", max_ttl, least=_MIN_TTL)
        _check_seconds("max_hold", max_hold, least=_MIN_TTL)
        _check_seconds("fence_ttl", fence_ttl, least=max_ttl)
        quarantine = max_ttl if quarantine is None else quarantine
        _check_seconds("quarantine", quarantine, least=0)
        store.configure(StoreOptions(prefix=prefix, quarantine=quarantine, fence_ttl=fence_ttl))
        self._store = store
        self._max_ttl = max_ttl
        self._tasks = Tasks()
        self._watchdog = Watchdog(self._extend_all, max_hold=max_hold)
        self._notifier = ReleaseNotifier(store.channel_prefix, store.clients, quorum=store.quorum)
        self._local_queue = LocalQueue()
        self._bulkhead = Bulkhead(store.capacity)
        self._holders = Holders()
        self._held: WeakValueDictionary[str, Lease] = WeakValueDictionary()
        self._checking_nodes: asyncio.Task[bool] | None = None
        self._open = self._closed = False

    async def __aenter__(self) -> Self:
        """Connect to the servers that answer; those that do not answer do not prevent the start."""
        if self._closed:
            raise LockError("these locks were closed before: make new ones")
        self._open = True
        # The nodes of a quorum have little time to vote, too little to be connected to as well.
        first_probe = self._tasks.start(self._probe())
        await asyncio.wait([self._check_nodes(), first_probe], timeout=_CONNECT_TIMEOUT)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the leases that are still held, and wait for their blocks and releases to finish."""
        self._open, self._closed = False, True
        await self._watchdog.stop()
        await self._notifier.close()
        await self._holders.wait_until_left(_DRAIN_TIMEOUT)
        await self._tasks.stop(_DRAIN_TIMEOUT)
        await self._store.close()

    async def check(self) -> None:
        """Try on each server what locks do, for the health page.

        Raises:
            RedisError, OSError, TimeoutError: locks cannot be granted; the message says why.
        """
        self._notifier.is_unheard = not await self._store.probe(listening=False)

    async def _probe(self) -> None:
        """Log what the servers refuse, before somebody needs it."""
        with suppress(*NodeError):
            self._notifier.is_unheard = not await self._store.probe(listening=True)

    def hold(self, name: str, *, ttl: float = 10.0, timeout: float = 5.0) -> Hold:
        """Hold the lock `name` for an `async with` block.

        The lease is renewed as long as the block runs (up to `max_hold`). If it is lost, the body
        is cancelled before the lock can go to anybody else, and the block raises LockLost; code in
        a thread or one that blocks the event loop cannot be cancelled, so let it use the fence.

        Args:
            name: what is locked, such as "invoice:42".
            ttl: seconds after which the lock is free again if this process dies.
            timeout: seconds to wait for the lock; 0 tries once.

        Raises:
            ValueError: at once, when an argument is out of range.
            LockTimeout: on entry: the lock was still held elsewhere after `timeout` seconds.
            LockUnavailable: on entry: a LockTimeout because the servers could not be asked.
            LockReentered: on entry: this task is inside a block for the same name.
            LockLost: from the block: the lock was lost before the body ended.
        """
        _check_name(name)
        _check_seconds("ttl", ttl, least=_MIN_TTL, most=self._max_ttl)
        _check_seconds("timeout", timeout, least=0)
        return Hold(name, lambda: self._acquire(name, ttl, timeout), self._watchdog, self._holders)

    async def try_acquire(self, name: str, *, ttl: float = 10.0) -> Lease | None:
        """Acquire the lock if it is free, without waiting.

        The caller has to `extend()` and `release()` the lease: nothing renews it, and only
        `check()` tells that it has ended.

        Args:
            name: what is locked.
            ttl: seconds after which the lock is free again unless it is extended.

        Returns:
            None if it is held elsewhere, or may be (see `quarantine`).

        Raises:
            ValueError: an argument is out of range.
            LockUnavailable: the servers did not answer.
            LockReentered: this task is inside a `hold` of the same name.
        """
        _check_name(name)
        _check_seconds("ttl", ttl, least=_MIN_TTL, most=self._max_ttl)
        self._holders.refuse_nested(name)
        read_fresh()
        with metrics.time_acquire() as timing:
            try:
                answer = await self._attempt(name, ttl, time.monotonic() + _SLOT_TIMEOUT)
            except NodeError as error:
                raise LockUnavailable(
                    f"no answer from the servers of the lock {name!r}: {error}"
                ) from error
            if isinstance(answer, Refused):
                timing.outcome = "refused"
                return None
            return answer

    async def extend(self, lease: Lease) -> None:
        """See `Lease.extend`."""
        lease.check()
        before = lease.renewed
        await self._tasks.shield(self._extend_all([lease]))
        lease.check()
        if lease.renewed == before:
            raise LockUnavailable(f"no answer from the servers of the lock {lease.name!r}")

    async def release(self, lease: Lease) -> bool:
        """See `Lease.release`."""
        lost = lease.cause is not None
        if not lease.close():
            return False
        if lost:
            # The servers are probably away, and the holder has to learn of the loss without delay.
            self._tasks.start(self._release(lease))
            return False
        return await self._tasks.shield(self._release(lease))

    async def _acquire(self, name: str, ttl: float, seconds: float) -> Lease:
        deadline = time.monotonic() + seconds
        read_fresh()  # what is read under a lock decides what is written
        with metrics.time_acquire():
            try:
                async with self._local_queue.enter(name, seconds):
                    with self._notifier.waiter(name) as waiter:
                        return await contend(
                            waiter,
                            lambda: self._attempt(name, ttl, deadline + _GRACE),
                            held_here=self._held,
                            deadline=deadline,
                        )
            except TimeoutError:
                raise LockTimeout(
                    f"timed out after {seconds} s: other tasks of this process are queued for the "
                    f"lock {name!r}"
                ) from None

    async def _attempt(self, name: str, ttl: float, deadline: float) -> Lease | Refused:
        answer = await self._claim(name, ttl, deadline)
        if (
            isinstance(answer, Refused)
            and answer.reason is Reason.QUARANTINE
            and await self._quarantine_has_ended()
        ):
            return await self._claim(name, ttl, deadline)
        return answer

    async def _claim(self, name: str, ttl: float, deadline: float) -> Lease | Refused:
        if not self._open:
            raise LockError("these locks are closed, or were never opened with `async with`")
        try:
            await self._bulkhead.acquire(deadline)
        except TimeoutError:
            raise LockUnavailable(
                f"timed out before the lock {name!r} was asked for: {self._bulkhead.size} commands "
                "to the lock servers are under way, and more of this process are queued; if the "
                "servers are well, raise LOCK_POOL_SIZE"
            ) from None
        claim = Claim(name, secrets.token_hex(16), ttl)
        sent = time.monotonic()
        acquiring = self._tasks.start(self._store.acquire(claim))
        acquiring.add_done_callback(self._release_slot)
        try:
            answer = await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            self._tasks.start(self._undo(claim, acquiring))
            raise
        if isinstance(answer, Refused):
            metrics.refusals.labels(answer.reason).inc()
            return answer
        lease = Lease(claim, answer.fence, sent, self)
        if lease.remaining() <= 0:
            self._tasks.start(self._store.release(claim))
            raise TimeoutError(f"the grant of {name!r} arrived after it had expired")
        self._held[name] = lease
        return lease

    def _release_slot(self, _: asyncio.Task[Granted | Refused]) -> None:
        self._bulkhead.release()

    async def _undo(self, claim: Claim, acquiring: asyncio.Task[Granted | Refused]) -> None:
        try:
            answer = await acquiring
        except NodeError:
            return  # the store undoes what it could not finish
        if isinstance(answer, Granted):
            metrics.cleanups.inc()
            released = await self._store.release(claim)
            self._notifier.released_here(claim.name, released.listeners)

    async def _extend_all(self, leases: Sequence[Lease]) -> None:
        sent = time.monotonic()
        answers = await self._store.extend([lease.claim for lease in leases])
        for lease, answer in zip(leases, answers, strict=True):
            if answer is None:
                metrics.renewals.labels("failed").inc()
            elif answer:
                metrics.renewals.labels("renewed").inc()
                lease.renew(sent)
            elif lease.lose("gone"):
                metrics.renewals.labels("gone").inc()

    async def _release(self, lease: Lease) -> bool:
        claim = lease.claim
        if self._held.get(claim.name) is lease:
            del self._held[claim.name]
        try:
            await self._bulkhead.acquire(time.monotonic() + _SLOT_TIMEOUT)
        except TimeoutError:
            self._store.release_later(claim)
            return False
        try:
            released = await self._store.release(claim)
        finally:
            self._bulkhead.release()
        self._notifier.released_here(claim.name, released.listeners)
        return released.confirmed

    def _check_nodes(self) -> asyncio.Task[bool]:
        """Begin every quarantine now, and not at the first claim that it refuses."""
        if self._checking_nodes is None or self._checking_nodes.done():
            self._checking_nodes = self._tasks.start(self._store.check_nodes())
        return self._checking_nodes

    async def _quarantine_has_ended(self) -> bool:
        """Whether locks that were refused so far have only moved here, and can be granted."""
        checking = self._check_nodes()
        if not self._store.is_cluster:
            return False
        await asyncio.wait([checking], timeout=_CONNECT_TIMEOUT)
        return checking.done() and checking.result()


def _check_name(name: object) -> None:
    """Raise ValueError unless `name` can name a lock."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a lock is a non-empty string, not {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the name of a lock has to be valid Unicode, not {name!r}") from None
    if size > _MAX_NAME_BYTES:
        raise ValueError(f"the name of a lock takes at most {_MAX_NAME_BYTES} bytes, not {size}")


def _check_prefix(prefix: str) -> None:
    """Raise ValueError unless `prefix` can start the key of a lock."""
    _check_name(prefix)
    if "{" in prefix or "}" in prefix:
        raise ValueError(f"the prefix {prefix!r} has a brace, which would take over the hash tag")


def _check_seconds(what: str, value: object, *, least: float, most: float = math.inf) -> None:
    """Raise ValueError unless `value` is a finite number of seconds from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is a finite number of seconds, not {value!r}")
    if value < least:
        raise ValueError(f"{what} is at least {least} s, not {value!r}")
    if value > most:
        raise ValueError(f"{what} is at most {most} s, not {value!r}")
