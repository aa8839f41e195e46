"""The block in which a lock is held, and how losing the lock ends it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from app.core.locks.errors import LockLost, LockReentered
from app.core.locks.lease import Lease
from app.core.locks.watchdog import Watchdog


class Holders:
    """Which task holds which names: a task must not wait for a lock that it holds itself."""

    def __init__(self) -> None:
        self._names: dict[asyncio.Task[Any], set[str]] = {}
        self._left = asyncio.Event()

    def refuse_nested(self, name: str) -> None:
        """Raise LockReentered when the current task holds `name`, or is about to."""
        if name in self._names.get(_current_task(), ()):
            raise LockReentered(name)

    def add(self, name: str) -> asyncio.Task[Any]:
        """Take note that the current task holds `name`, or is about to.

        Raises:
            LockReentered: it does so already.
        """
        task = _current_task()
        names = self._names.setdefault(task, set())
        if name in names:
            raise LockReentered(name)
        names.add(name)
        return task

    def remove(self, task: asyncio.Task[Any], name: str) -> None:
        self._names[task].discard(name)
        if not self._names[task]:
            del self._names[task]
        self._left.set()

    async def wait_until_left(self, seconds: float) -> None:
        """Wait up to so many seconds until all tasks but the current one have left their blocks."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._names.keys() - {asyncio.current_task()}:
                    self._left.clear()
                    await self._left.wait()


class Hold:
    """An async context manager for one block: a loss cancels its body and raises LockLost."""

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
        self._task = self._holders.add(self._name)
        try:
            lease = self._lease = await self._acquire()
        except BaseException:
            self._holders.remove(self._task, self._name)
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
        assert self._task is not None
        assert self._lease is not None
        lease = self._lease
        self._watchdog.unwatch(lease)
        lease.on_loss(None)
        cause = lease.cause
        try:
            await lease.release()  # in the background if it is lost, so not hit by our cancellation
        finally:
            self._holders.remove(self._task, self._name)
        cancelled_by_us = self._interrupted and await self._take_back_interruption(error)
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
        self._task.uncancel()
        if isinstance(error, asyncio.CancelledError):
            return not self._cancelled_by_others()
        try:
            # Our cancellation may still be on its way, to hit whatever is awaited next.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._cancelled_by_others():
                raise
        return False

    def _cancelled_by_others(self) -> bool:
        assert self._task is not None
        return self._task.cancelling() > self._cancel_requests


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a lock is held by an asyncio task, and there is none here")
    return task
