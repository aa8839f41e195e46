"""The bulkhead: how many loaders run at once.

A loader may read other entries, whose loaders need a turn too. If it kept its own meanwhile, enough
of such loaders would hold every turn and wait for each other. So a loader that waits for another
load gives its turn away, and takes the next free one to go on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class _Turn:
    """The right of one loader to run."""

    free: asyncio.Semaphore
    held: bool = True
    waits: int = 0
    """What the loader waits for at the moment: it may read several entries at once."""
    over: bool = False

    def give_away(self) -> None:
        if self.held:
            self.held = False
            self.free.release()

    async def take_again(self) -> None:
        await self.free.acquire()
        if self.held or self.waits or self.over:  # things have changed while we queued
            self.free.release()
        else:
            self.held = True


_mine: ContextVar[_Turn | None] = ContextVar("turn", default=None)


def adopt(context: Context) -> None:
    """Let what follows in this task see the context variables of another, but keep its turn."""
    for variable, value in context.items():
        if variable is not _mine:
            variable.set(value)


class Bulkhead:
    """At most `size` loaders at work; the others wait in order."""

    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around a loader: it waits here for its turn."""
        await self._free.acquire()
        turn = _Turn(self._free)
        token = _mine.set(turn)
        try:
            yield
        finally:
            _mine.reset(token)
            turn.over = True
            turn.give_away()


@asynccontextmanager
async def waiting() -> AsyncIterator[None]:
    """Around whatever waits for another load, which may be for the sake of a loader."""
    turn = _mine.get()
    if turn is None or turn.over:
        yield
        return
    turn.waits += 1
    turn.give_away()
    try:
        yield
    finally:
        turn.waits -= 1
        if not turn.waits:
            await turn.take_again()
