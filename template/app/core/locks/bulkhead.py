"""How many commands are under way to the lock servers, so that waiting for them is no outage."""

import asyncio
import time


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
