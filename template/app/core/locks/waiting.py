"""One task's wait for a lock, once it is its turn among the tasks of this process."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from app.core.locks import metrics
from app.core.locks.errors import LockTimeout, LockUnavailable
from app.core.locks.lease import Lease
from app.core.locks.node import NodeError
from app.core.locks.store import PubSubFactory, Reason, Refused
from app.core.locks.subscriber import Subscriber
from app.core.redis import advice, is_refusal

_POLL = 0.1
"""Seconds between attempts while releases cannot be heard."""
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.25
_JITTER = 0.02
_GRACE = 0.003
"""Seconds that the reports of the other servers may lag behind the first one's."""
_SPREAD = 0.001
"""Seconds, per server that has to agree, over which those try who do not try at once."""


async def contend(
    name: str,
    *,
    attempt: Callable[[], Awaitable[Lease | Refused]],
    held_here: Callable[[], Lease | None],
    listen: Callable[[], bool],
    woken: asyncio.Event,
    deadline: float,
) -> Lease:
    """Attempt until the lock is ours: when woken, or when whoever holds it must have lost it.

    Args:
        name: of the lock, for messages.
        attempt: asks the servers.
        held_here: the lease of another task of this process, which saves asking the servers.
        listen: makes sure that releases are heard; False while they may go unheard.
        woken: set whenever a release may have happened.
        deadline: by `time.monotonic()`; one last attempt is made then.

    Raises:
        LockTimeout: the deadline passed.
        LockUnavailable: it passed without an answer, or the servers refuse to talk to us, or
            they refuse all locks for a while because they have lost their memory.
    """
    began_waiting: float | None = None
    failures = 0
    while True:
        woken.clear()
        error: BaseException | None = None
        forgetful = False
        heeds_wakeups = True
        holder = held_here()
        if holder is not None and holder.remaining() > 0:
            # Its renewals move this on; the end of the block wakes us.
            pause = holder.remaining() + random.uniform(0, _JITTER)
        else:
            try:
                answer = await attempt()
            except NodeError as failure:
                if is_refusal(failure):
                    raise _refused(name, failure) from failure
                error = failure
                failures += 1
                pause = _backoff(failures)
            else:
                if isinstance(answer, Lease):
                    if began_waiting is not None:
                        metrics.wait_seconds.observe(time.monotonic() - began_waiting)
                    return answer
                failures = failures + 1 if answer.reason is Reason.SPLIT else 0
                forgetful = answer.reason is Reason.QUARANTINE
                # Whoever splits the votes must not try again together.
                heeds_wakeups = answer.reason is not Reason.SPLIT
                pause = _pause(answer, failures, listen)
        now = time.monotonic()
        began_waiting = began_waiting or now
        if now >= deadline:
            raise _timed_out(name, error, forgetful) from error
        await _sleep(min(pause, deadline - now), woken if heeds_wakeups else None)


def _pause(refusal: Refused, failures: int, listen: Callable[[], bool]) -> float:
    if refusal.reason is Reason.SPLIT:
        return _backoff(failures)
    pause = refusal.retry_after + random.uniform(0, _JITTER)
    if refusal.reason is Reason.HELD and not listen():
        return min(pause, _POLL * random.uniform(0.5, 1.5))
    return pause


def _backoff(failures: int) -> float:
    longest: float = min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE)
    return random.uniform(longest / 4, longest)


async def _sleep(seconds: float, woken: asyncio.Event | None) -> None:
    if woken is None:
        await asyncio.sleep(seconds)
        return
    try:
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        return


def _refused(name: str, refusal: Exception) -> LockUnavailable:
    what_to_do = advice(refusal)
    return LockUnavailable(
        f"not allowed to lock {name!r}: {refusal}" + (f" ({what_to_do})" if what_to_do else "")
    )


def _timed_out(name: str, error: BaseException | None, forgetful: bool) -> LockTimeout:
    if forgetful:
        return LockUnavailable(
            f"the server that keeps the lock {name!r} has lost its memory, and waits until every "
            "lock that it forgot has run out"
        )
    if error is None:
        return LockTimeout(f"somebody else still holds the lock {name!r}")
    return LockUnavailable(f"nobody answers for the lock {name!r}: {error}")


class LocalQueue:
    """Queues of this process, each existing only while somebody uses it."""

    def __init__(self) -> None:
        self._queues: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def turn(self, name: str, patience: float) -> AsyncIterator[None]:
        """Be the first in the queue of `name` for the time of the block.

        Raises:
            TimeoutError: others were still before us after `patience` seconds.
        """
        queue = self._queues.setdefault(name, asyncio.Lock())
        self._users[name] = self._users.get(name, 0) + 1
        try:
            async with asyncio.timeout(patience):
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
    """Slots for commands, given out in the order they were asked for.

    Whoever waits here has sent nothing yet: its time runs, but no server's, and when it gives up
    there is nothing to undo. In the pool of connections the wait would count against the server.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = asyncio.Semaphore(size)

    async def enter(self, deadline: float) -> None:
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

    def leave(self) -> None:
        """Give a slot back."""
        self._free.release()


@dataclass(slots=True)
class Waiter:
    """What the one who waits for a name has heard."""

    name: str
    event: asyncio.Event = field(default_factory=asyncio.Event)
    token: bytes = b""
    reports: set[int] = field(default_factory=set)
    timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        self.cancel_timer()
        self.event.set()

    def wake_within(self, seconds: float) -> None:
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(seconds, self.wake)

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class ReleaseNotifier:
    """Topics that somebody waits for, fed by one subscriber per server."""

    def __init__(
        self,
        prefix: str,
        sources: Sequence[PubSubFactory],
        *,
        quorum: int,
    ) -> None:
        """`prefix` is what a channel has before the name of the lock."""
        self._prefix = prefix
        self._quorum = quorum
        self._waiters: dict[str, Waiter] = {}
        self.unheard = False
        """Releases are not published: whoever waits has to ask."""
        self._subscribers = [
            Subscriber(source, number, self) for number, source in enumerate(sources)
        ]

    @contextmanager
    def waiter(self, name: str) -> Iterator[Waiter]:
        """Hear about `name` for the time of the block; one task at a time does so for a name."""
        waiter = self._waiters[name] = Waiter(name)
        try:
            yield waiter
        finally:
            waiter.cancel_timer()
            del self._waiters[name]

    def listen(self, waiter: Waiter) -> bool:
        """Subscribe if need be; whether enough servers already report releases of the waiter."""
        for subscriber in self._subscribers:
            subscriber.want(self._prefix + waiter.name)
        return not self.unheard and self._subscriptions(waiter) >= self._quorum

    def released_here(self, name: str, told: int) -> None:
        """Wake the next waiter of this process, but with no head start over other processes."""
        waiter = self._waiters.get(name)
        if waiter is None:
            return
        if self._subscriptions(waiter):
            waiter.wake_within(_SPREAD)  # the message will be here before that
        else:
            self._wake_one_of(waiter, told + 1)

    async def close(self) -> None:
        """Wake everybody, to find that there is nothing left to wait for."""
        for waiter in self._waiters.values():
            waiter.wake()
        await asyncio.gather(*(subscriber.close() for subscriber in self._subscribers))

    def wants(self, channel: str) -> bool:
        """Whether somebody waits for what the channel reports."""
        return channel[len(self._prefix) :] in self._waiters

    def heard_release(self, source: int, channel: str, message: bytes) -> None:
        """One server reports the release of one claim; with a quorum, wait for a majority to."""
        waiter = self._waiters.get(channel[len(self._prefix) :])
        if waiter is None:
            return
        listeners, _, token = message.partition(b" ")
        if waiter.token != token:
            waiter.token = token
            waiter.reports.clear()
        waiter.reports.add(source)
        if len(waiter.reports) < self._quorum:
            waiter.wake_within(_GRACE)
        elif len(waiter.reports) == self._quorum:
            waiter.cancel_timer()
            self._wake_one_of(waiter, int(listeners))

    def heard_subscription(self, channel: str) -> None:
        """A subscription is (again) in place: a release may have gone unheard just before."""
        waiter = self._waiters.get(channel[len(self._prefix) :])
        if waiter is not None and self._subscriptions(waiter) >= self._quorum:
            self._wake_one_of(waiter, 1)

    def _wake_one_of(self, waiter: Waiter, processes: int) -> None:
        """Try at once in one process of those that wait (by lot, and on average), else soon.

        If all tried at once they would get in each other's way, and the one that the server tells
        first would win every time.
        """
        if random.random() * processes < 1:
            waiter.wake()
        else:
            waiter.wake_within(random.uniform(0, _SPREAD * self._quorum))

    def _subscriptions(self, waiter: Waiter) -> int:
        channel = self._prefix + waiter.name
        return sum(channel in subscriber.confirmed for subscriber in self._subscribers)
