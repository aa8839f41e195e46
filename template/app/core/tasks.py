"""Background tasks: each part of the service owns the tasks that it starts, and ends them.

asyncio itself keeps only weak references to tasks, and does not say how they end when their owner
does. So whatever runs in the background here is started by a `Tasks`.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

_CANCEL_AGAIN_AFTER = 1.0
"""Seconds that a task has to clean up before it is cancelled again."""


class Tasks:
    """The tasks of one owner that are running."""

    def __init__(self, context: Context | None = None) -> None:
        """Own no tasks so far.

        Args:
            context: each task runs in a copy of it, and so keeps nothing of the request that
                happens to start it. None: each runs in a copy of its starter's context.
        """
        self._context = context
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in a task of its own, which the cancellation of the starter does not reach."""
        context = None if self._context is None else self._context.copy()
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def shield(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`, which runs to its end even if the caller is cancelled.

        Raises:
            Exception: what `work` raises.
        """
        return await asyncio.shield(self.start(work))

    async def stop(self, grace: float = 0) -> None:
        """Wait up to `grace` seconds for the tasks and those they start, and cancel what is left.

        Their errors are ignored. They are cancelled until they have ended: up to Python 3.11,
        `asyncio.wait_for`, which redis-py uses, can mistake a cancellation for its own timeout.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        while self._tasks and (left := deadline - loop.time()) > 0:
            await _wait(self._tasks, left)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await _wait(self._tasks, _CANCEL_AGAIN_AFTER)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        # One that is done stays in the set until the loop has called its callbacks.
        return iter([task for task in self._tasks if not task.done()])

    def __len__(self) -> int:
        return sum(not task.done() for task in self._tasks)


async def _wait(tasks: set[asyncio.Task[Any]], seconds: float) -> None:
    done, _ = await asyncio.wait(tasks, timeout=seconds)
    for task in done:
        if not task.cancelled():
            task.exception()  # otherwise asyncio reports that nobody has looked at it
