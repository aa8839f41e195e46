"""Tasks end, also those that take their cancellation for something else."""

import asyncio

import pytest

from app.core.redis import stop_tasks


@pytest.mark.slow
async def test_a_task_that_swallows_its_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(asyncio.sleep(0))]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await stop_tasks(tasks)
    assert swallowed == 3
    assert all(task.done() for task in tasks)


async def test_what_a_task_raises_at_its_end_is_not_ours() -> None:
    async def fail() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise OSError("while it closed its connection")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await stop_tasks([task])
    assert isinstance(task.exception(), OSError)
