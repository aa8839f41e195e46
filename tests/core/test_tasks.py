"""Background tasks outlive the callers that started them, and end with their owner."""

import asyncio
import gc
import time
import weakref
from contextvars import ContextVar, copy_context

import pytest

from app.core.tasks import Tasks
from devservers.waiting import HANG

caller: ContextVar[str] = ContextVar("caller", default="nobody")


async def hang() -> None:
    await asyncio.Event().wait()


async def test_a_task_that_nobody_else_refers_to_is_kept() -> None:
    tasks = Tasks()

    async def wait_for_what_nobody_sets() -> None:
        await asyncio.get_running_loop().create_future()

    owned = weakref.ref(tasks.start(wait_for_what_nobody_sets()))
    control = weakref.ref(asyncio.create_task(wait_for_what_nobody_sets()))
    await asyncio.sleep(0)
    gc.collect()
    assert owned() is not None
    assert control() is None
    await tasks.stop()


async def test_a_cancelled_caller_does_not_cancel_what_it_shields() -> None:
    tasks, gate, ended = Tasks(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await gate.wait()
        ended.set()

    waiting = asyncio.create_task(tasks.shield(work()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert len(tasks) == 1
    gate.set()
    await tasks.stop(HANG)
    assert ended.is_set()


async def test_a_result_or_an_error_reaches_whoever_shields() -> None:
    tasks = Tasks()

    async def fail() -> None:
        raise OSError("as it is")

    assert await tasks.shield(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(OSError, match="as it is"):
        await tasks.shield(fail())
    assert len(tasks) == 0


@pytest.mark.parametrize("has_context", [True, False])
async def test_a_task_runs_in_the_context_of_its_owner_if_that_has_one(has_context: bool) -> None:
    tasks = Tasks(copy_context() if has_context else None)

    async def look() -> str:
        return caller.get()

    caller.set("a request")
    assert await tasks.start(look()) == ("nobody" if has_context else "a request")


async def test_stopping_waits_for_what_tasks_start_meanwhile() -> None:
    tasks, ended = Tasks(), list[str]()

    async def first() -> None:
        await asyncio.sleep(0)
        tasks.start(second())
        ended.append("first")

    async def second() -> None:
        await asyncio.sleep(0)
        ended.append("second")

    tasks.start(first())
    await tasks.stop(HANG)
    assert ended == ["first", "second"]


async def test_what_takes_longer_than_the_grace_is_cancelled() -> None:
    tasks = Tasks()
    late = tasks.start(hang())
    before = time.monotonic()
    await tasks.stop(grace=0.05)
    assert time.monotonic() - before >= 0.05
    assert late.cancelled()
    assert list(tasks) == []


async def test_what_a_cancelled_task_starts_is_ended_too() -> None:
    tasks, started = Tasks(), list[asyncio.Task[None]]()

    async def begin_another() -> None:
        try:
            await hang()
        finally:
            started.append(tasks.start(hang()))

    tasks.start(begin_another())
    await asyncio.sleep(0)
    await tasks.stop()
    assert [task.cancelled() for task in started] == [True]


@pytest.mark.slow
async def test_a_task_that_swallows_its_cancellation_is_cancelled_again() -> None:
    tasks, swallowed = Tasks(), 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await hang()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    tasks.start(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(HANG):
        await tasks.stop()
    assert swallowed == 3


async def test_what_a_task_raises_at_its_end_is_not_reported() -> None:
    tasks, reported = Tasks(), list[object]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))

    async def fail() -> None:
        try:
            await hang()
        finally:
            raise OSError("while it closed its connection")

    task = tasks.start(fail())
    await asyncio.sleep(0)
    await tasks.stop()
    assert task.done()
    del task
    gc.collect()
    assert reported == []
