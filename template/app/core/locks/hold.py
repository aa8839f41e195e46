"""The block in which a lock is held, and how losing the lock ends it."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from app.core.locks.errors import LockLost, LockReentered
from app.core.locks.lease import Lease
from app.core.locks.watchdog import Watchdog


class Holders:
    """Which task is in which blocks: a task that waits for its own lock would wait in vain."""

    def __init__(self) -> None:
        self._names: dict[asyncio.Task[Any], set[str]] = {}

    def refuse_nested(self, name: str) -> None:
        """Raise LockReentered when the current task holds `name`, or is about to."""
        if name in self._names.get(_current_task(), ()):
            raise LockReentered(name)

    def enter(self, name: str) -> None:
        self.refuse_nested(name)
        self._names.setdefault(_current_task(), set()).add(name)

    def leave(self, name: str) -> None:
        task = _current_task()
        names = self._names.get(task, set())
        names.discard(name)
        if not names:
            self._names.pop(task, None)


class Hold:
    """`async with` it, once. The body is cancelled, and the block raises LockLost, on a loss."""

    def __init__(
        self,
        name: str,
        acquire: Callable[[], Awaitable[Lease]],
        watchdog: Watchdog,
        holders: Holders,
    ) -> None:
        self._name = name
        self._acquire = acquire
        self._watchdog = watchdog
        self._holders = holders
        self._task: asyncio.Task[Any] | None = None
        self._lease: Lease | None = None
        self._cancel_requests = 0
        self._interrupted = False

    async def __aenter__(self) -> Lease:
        if self._task is not None:
            raise RuntimeError("a hold is used once: call locks.hold() for every block")
        self._holders.enter(self._name)
        self._task = _current_task()
        try:
            lease = self._lease = await self._acquire()
        except BaseException:
            self._holders.leave(self._name)
            raise
        self._cancel_requests = self._task.cancelling()
        lease.on_loss(self._interrupt)
        self._watchdog.watch(lease)
        return lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._lease is not None
        lease = self._lease
        self._watchdog.unwatch(lease)
        lease.on_loss(None)
        cause = lease.cause
        cancelled_by_us = self._interrupted and await self._take_back_interruption(error)
        try:
            await lease.release()
        finally:
            self._holders.leave(self._name)
        # The body may have ended well all the same, but part of it ran without the lock.
        if cause is not None and (error is None or cancelled_by_us):
            raise LockLost(self._name, cause) from None

    def _interrupt(self) -> None:
        assert self._task is not None
        self._interrupted = True
        self._task.cancel()

    async def _take_back_interruption(self, error: BaseException | None) -> bool:
        """Whether the body was ended by our cancellation, and by nobody else's."""
        assert self._task is not None
        others = self._task.uncancel() > self._cancel_requests
        if isinstance(error, asyncio.CancelledError):
            return not others
        try:
            # Our cancellation may still be on its way, to hit whatever is awaited next.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if others:
                raise
        return False


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a lock is held by an asyncio task, and there is none here")
    return task
