"""A first-come, first-served queue per name, so that one task of a process contends at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
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
