"""Telling who waits from who is only slow, on a machine of any speed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_TICK = 0.002
# What is late because the machine is busy is so by few turns of the event loop: those that it takes
# to end. What waits lets it turn for as long as that takes.
_FEW = 40
# Seconds from the beginning of the body to that of what it measures, on a busy machine.
_MARGIN = 0.5


@asynccontextmanager
async def no_longer_than(seconds: float) -> AsyncIterator[None]:
    """Fail if the body waits for longer than that, but not if it was merely kept from running."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds + _MARGIN
    late = 0

    async def count() -> None:
        nonlocal late
        while True:
            await asyncio.sleep(_TICK)
            late += loop.time() > end

    counting = asyncio.create_task(count())
    try:
        yield
    finally:
        counting.cancel()
    assert late < _FEW, f"it waited for {loop.time() - end + seconds:.1f} s, not {seconds} s"
