"""Ending tasks that talk to Redis."""

import asyncio
from collections.abc import Collection


async def stop_tasks(tasks: Collection["asyncio.Task[None]"]) -> None:
    """Cancel tasks until they have ended; what they raise meanwhile is of no interest.

    Again and again: up to Python 3.11 `asyncio.wait_for`, which redis-py uses, can take a
    cancellation for its own time-out, and the task would go on. Each has a second to clean up.
    """
    while running := {task for task in tasks if not task.done()}:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=1.0)
    await asyncio.gather(*tasks, return_exceptions=True)
