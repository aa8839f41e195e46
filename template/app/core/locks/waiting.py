"""How tasks wait for a lock: in the queue of their process, then for a release on the servers."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

from app.core.locks import metrics
from app.core.locks.errors import LockTimeout, LockUnavailable
from app.core.locks.lease import Lease
from app.core.locks.store import NodeError, Reason, Refused
from app.core.redis import OutageLog, PubSubConnection, RedisClient, advice, is_refusal

_POLL = 0.1
"""Seconds between attempts while releases cannot be heard."""
_FIRST_BACKOFF = 0.01
_LONGEST_BACKOFF = 0.25
"""Seconds; it doubles with each failed attempt, and is shortened at random."""
_JITTER = 0.02
"""Seconds by which those are spread who all know when a lock expires."""
_REPORTS_WITHIN = 0.003
"""Seconds that the reports of the other servers may lag behind the first one's."""
_SPREAD = 0.001
"""Seconds, per server that has to agree, over which those try who do not try at once."""
_SILENCE = 1.5
"""Seconds without a sign of life after which a connection that listens is replaced."""


class LocalQueue:
    """First come, first served: one task of a process contends for a name at a time."""

    def __init__(self) -> None:
        # Each queue exists only while somebody uses it.
        self._queues: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def enter(self, name: str, timeout: float) -> AsyncIterator[None]:  # noqa: ASYNC109 # a name of its own
        """Be the first in the queue of `name` for the time of the block.

        Raises:
            TimeoutError: others were still ahead after `timeout` seconds.
        """
        queue = self._queues.setdefault(name, asyncio.Lock())
        self._users[name] = self._users.get(name, 0) + 1
        try:
            async with asyncio.timeout(timeout):
                await queue.acquire()  # asyncio.Lock wakes its waiters in the order they came
            try:
                yield
            finally:
                queue.release()
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._queues[name]


class Bulkhead:
    """Slots for commands to the lock servers, given out in the order they were asked for.

    A command that is queued here has not been sent: no server is blamed for the wait, and if it is
    cancelled there is nothing to undo. A wait for a pooled connection would look like an outage.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = asyncio.Semaphore(size)

    async def acquire(self, deadline: float) -> None:
        """Take a slot.

        Args:
            deadline: by `time.monotonic()`.

        Raises:
            TimeoutError: all were taken until then.
        """
        if not self._free.locked():
            await self._free.acquire()
            return
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await self._free.acquire()

    def release(self) -> None:
        """Return a slot."""
        self._free.release()


class Waiter:
    """The one task of this process that contends for a name, and which releases were reported."""

    def __init__(self, name: str, channel: str, notifier: "ReleaseNotifier") -> None:
        self.name = name
        self.channel = channel
        self.has_listened = False
        self._notifier = notifier
        self._woken = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._token = b""
        self._reports: set[int] = set()

    def listen(self) -> bool:
        """Subscribe if need be, and return whether enough servers already report releases."""
        self.has_listened = True
        return self._notifier.listen(self.channel)

    def clear(self) -> None:
        """Ignore what has woken it so far."""
        self._woken.clear()

    async def sleep(self, seconds: float) -> None:
        """Wait up to so many seconds to be woken."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def wake(self) -> None:
        """Wake it now."""
        self.cancel_timer()
        self._woken.set()

    def wake_within(self, seconds: float) -> None:
        """Wake it after so many seconds, unless something does so before."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.wake)

    def wake_one_of(self, processes: int, spread: float) -> None:
        """Wake it at once in one process of those that wait (by lot, and on average), else soon.

        If all tried at once they would get in each other's way, and the one that the server tells
        first would win every time.

        Args:
            processes: how many wait.
            spread: seconds over which the others try.
        """
        if random.random() * processes < 1:
            self.wake()
        else:
            self.wake_within(random.uniform(0, spread))

    def cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def count_report(self, server: int, token: bytes) -> int:
        """Count a server that reports the release of a claim; return how many have done so."""
        if self._token != token:
            self._token = token
            self._reports.clear()
        self._reports.add(server)
        return len(self._reports)


class ReleaseNotifier:
    """Wakes the waiters of this process when a lock is released, here or in another process.

    Listens to each server over a connection that exists only while a task waits.
    """

    def __init__(self, prefix: str, clients: Sequence[RedisClient], *, quorum: int) -> None:
        """Connect with the first wait.

        Args:
            prefix: what a channel has before the name of its lock.
            clients: one per server.
            quorum: how many servers have to report a release.
        """
        self._prefix = prefix
        self._quorum = quorum
        self._spread = _SPREAD * quorum
        self._waiters: dict[str, Waiter] = {}  # by channel
        self.is_unheard = False
        """Releases are not published: those who wait have to poll."""
        self._listeners = [
            PubSubConnection(
                client,
                on_message=partial(self._on_release, server),
                on_subscribe=self._on_subscribe,
                outage_log=OutageLog("locks.releases", server=server),
                timeout=_SILENCE,
            )
            for server, client in enumerate(clients)
        ]

    @contextmanager
    def waiter(self, name: str) -> Iterator[Waiter]:
        """Register the waiter of a name during the block; there is one at a time for a name."""
        channel = self._prefix + name
        waiter = self._waiters[channel] = Waiter(name, channel, self)
        try:
            yield waiter
        finally:
            waiter.cancel_timer()
            del self._waiters[channel]
            if waiter.has_listened:
                for listener in self._listeners:
                    listener.unsubscribe(channel)

    def listen(self, channel: str) -> bool:
        """Subscribe if need be, and return whether enough servers already report releases."""
        for listener in self._listeners:
            listener.subscribe(channel)
        return not self.is_unheard and self._subscriptions(channel) >= self._quorum

    def released_here(self, name: str, listeners: int) -> None:
        """Wake the next waiter of this process, but with no head start over other processes."""
        waiter = self._waiters.get(self._prefix + name)
        if waiter is None:
            return
        if self._subscriptions(waiter.channel):
            waiter.wake_within(_SPREAD)  # the message will be here before that
        else:
            waiter.wake_one_of(listeners + 1, self._spread)

    async def close(self) -> None:
        """Wake all waiters, which then find that the locks are closed."""
        for waiter in self._waiters.values():
            waiter.wake()
        await asyncio.gather(*(listener.close() for listener in self._listeners))

    def _on_release(self, server: int, channel: str, message: bytes) -> None:
        """One server reports the release of one claim; with a quorum, wait for a majority to."""
        waiter = self._waiters.get(channel)
        if waiter is None:
            return
        listeners, _, token = message.partition(b" ")
        reports = waiter.count_report(server, token)
        if reports < self._quorum:
            waiter.wake_within(_REPORTS_WITHIN)
        elif reports == self._quorum:
            waiter.cancel_timer()
            waiter.wake_one_of(int(listeners), self._spread)

    def _on_subscribe(self, channel: str) -> None:
        """A subscription is (again) in place: a release may have gone unheard just before."""
        waiter = self._waiters.get(channel)
        if waiter is not None and self._subscriptions(channel) >= self._quorum:
            waiter.wake()

    def _subscriptions(self, channel: str) -> int:
        return sum(listener.hears(channel) for listener in self._listeners)


async def contend(
    waiter: Waiter,
    attempt: Callable[[], Awaitable[Lease | Refused]],
    *,
    held_here: Mapping[str, Lease],
    deadline: float,
) -> Lease:
    """Attempt until the lock is granted: when woken, or when the holder's lease must have ended.

    Args:
        waiter: is woken by releases.
        attempt: asks the servers once.
        held_here: leases of this process; while one of them is valid the servers are not asked.
        deadline: by `time.monotonic()`; one last attempt is made then.

    Raises:
        LockTimeout: the deadline passed.
        LockUnavailable: it passed without an answer or during a quarantine, or the servers deny a
            command.
    """
    name = waiter.name
    began_waiting: float | None = None
    failures = 0
    while True:
        waiter.clear()
        holder = held_here.get(name)
        if holder is not None and (left := holder.remaining()) > 0:
            outcome: Lease | Refused | Exception = Refused(Reason.HELD_HERE, left)
        else:
            try:
                outcome = await attempt()
            except NodeError as error:
                if is_refusal(error):
                    raise _not_allowed(name, error) from error
                outcome = error
        now = time.monotonic()
        if isinstance(outcome, Lease):
            if began_waiting is not None:
                metrics.wait_seconds.observe(now - began_waiting)
            return outcome
        began_waiting = began_waiting or now
        if now >= deadline:
            cause = outcome if isinstance(outcome, Exception) else None
            raise _timed_out(name, outcome) from cause
        collided = isinstance(outcome, Refused) and outcome.reason is Reason.SPLIT
        if collided or isinstance(outcome, Exception):
            failures += 1
            pause = _backoff(failures)
        else:
            failures = 0
            pause = _time_to_wait(outcome, waiter)
        pause = min(pause, deadline - now)
        # Those who split the votes must not be woken together.
        await (asyncio.sleep(pause) if collided else waiter.sleep(pause))


def _time_to_wait(refusal: Refused, waiter: Waiter) -> float:
    pause = refusal.retry_after + random.uniform(0, _JITTER)
    if refusal.reason is Reason.HELD and not waiter.listen():
        return min(pause, _POLL * random.uniform(0.5, 1.5))
    return pause


def _backoff(failures: int) -> float:
    longest: float = min(_FIRST_BACKOFF * 2**failures, _LONGEST_BACKOFF)
    return random.uniform(longest / 4, longest)


def _not_allowed(name: str, refusal: Exception) -> LockUnavailable:
    what_to_do = advice(refusal)
    return LockUnavailable(
        f"not allowed to lock {name!r}: {refusal}" + (f" ({what_to_do})" if what_to_do else "")
    )


def _timed_out(name: str, outcome: Refused | Exception) -> LockTimeout:
    if isinstance(outcome, Exception):
        return LockUnavailable(f"no answer from the servers of the lock {name!r}: {outcome}")
    if outcome.reason is Reason.QUARANTINE:
        return LockUnavailable(
            f"the server of the lock {name!r} was restarted and refuses locks until those that it "
            "may have forgotten have expired"
        )
    return LockTimeout(f"timed out: the lock {name!r} is still held")
