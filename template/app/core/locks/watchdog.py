"""Renews the leases of the process, and tells holders in time when that fails."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context

from app.core.locks.lease import Lease
from app.core.tasks import Tasks

# A lease is renewed when a third of its ttl has passed: two failures in a row do no harm yet.
_RENEW_SHARE = 1 / 3
# After a failed renewal the next one comes this share of the ttl later.
_RETRY_SHARE = 1 / 12
# Leases due within this share of their ttl are renewed along with those that are due.
_TOGETHER_SHARE = 1 / 6
# The holder is told of the loss this long before the deadline, to be able to stop in time.
_NOTICE_SHARE = 0.05
_NOTICE_SECONDS = 0.2


class _Watch:
    """When to renew a lease, and when to end it."""

    def __init__(self, lease: Lease, max_hold: float) -> None:
        self.lease = lease
        self.due = lease.renewed + _RENEW_SHARE * lease.claim.ttl
        self.hold_ends = lease.granted + max_hold
        self.alarm: asyncio.TimerHandle | None = None

    def seconds_left(self) -> float:
        """Return the seconds until the holder has to be told, unless a renewal succeeds first."""
        notice = min(_NOTICE_SHARE * self.lease.claim.ttl, _NOTICE_SECONDS)
        return min(self.lease.remaining() - notice, self.hold_ends - time.monotonic())

    def due_soon(self, now: float) -> bool:
        return self.due <= now + _TOGETHER_SHARE * self.lease.claim.ttl


class Watchdog:
    """Renews leases in one task, which runs only while some are held."""

    def __init__(
        self, extend: Callable[[Sequence[Lease]], Awaitable[None]], *, max_hold: float
    ) -> None:
        """`extend` renews leases together; `max_hold` is in seconds."""
        self._extend = extend
        self._max_hold = max_hold
        self._watches: dict[str, _Watch] = {}
        self._changed = asyncio.Event()
        self._tasks = Tasks(Context())  # it outlives the request that happens to hold first

    def watch(self, lease: Lease) -> None:
        watch = self._watches[lease.claim.token] = _Watch(lease, self._max_hold)
        self._set_alarm(watch)
        self._changed.set()
        if not self._tasks:
            self._tasks.start(self._run())

    def unwatch(self, lease: Lease) -> None:
        watch = self._watches.pop(lease.claim.token, None)
        if watch is not None and watch.alarm is not None:
            watch.alarm.cancel()

    async def stop(self) -> None:
        """Tell all holders that their leases are over."""
        for watch in list(self._watches.values()):
            self._lose(watch, "closed")
        await self._tasks.stop()

    async def _run(self) -> None:
        while self._watches:
            self._changed.clear()
            now = time.monotonic()
            next_due = min(watch.due for watch in self._watches.values())
            if next_due > now:
                await self._sleep(next_due - now)
                continue
            batch = [watch for watch in self._watches.values() if watch.due_soon(now)]
            await self._renew(batch)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _renew(self, batch: Sequence[_Watch]) -> None:
        before = {watch.lease.claim.token: watch.lease.renewed for watch in batch}
        await self._extend([watch.lease for watch in batch])
        for watch in batch:
            lease = watch.lease
            if lease.renewed > before[lease.claim.token]:
                watch.due = lease.renewed + _RENEW_SHARE * lease.claim.ttl
                self._set_alarm(watch)
            else:
                watch.due = time.monotonic() + _RETRY_SHARE * lease.claim.ttl

    def _set_alarm(self, watch: _Watch) -> None:
        if watch.alarm is not None:
            watch.alarm.cancel()
        if watch.lease.claim.token in self._watches:
            delay = max(0.0, watch.seconds_left())
            watch.alarm = asyncio.get_running_loop().call_later(delay, self._time_is_up, watch)

    def _time_is_up(self, watch: _Watch) -> None:
        if watch.seconds_left() > 0:  # the holder extended the lease itself
            self._set_alarm(watch)
        elif time.monotonic() >= watch.hold_ends:
            self._lose(watch, "max_hold")
        elif watch.lease.remaining() > 0:
            self._lose(watch, "unreachable")
        else:
            self._lose(watch, "expired")

    def _lose(self, watch: _Watch, cause: str) -> None:
        self.unwatch(watch.lease)
        watch.lease.lose(cause)
