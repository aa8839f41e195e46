"""What keeps loads from being repeated, and from being too many at once.

* Single flight: callers of this process that need the same value share one task. The task belongs
  to nobody: cancelling a caller, also the first one, harms no other, and when all of them are gone
  the task is cancelled too.
* Bulkhead: how many loaders run at once. A loader may read other entries, whose loaders need a slot
  too. If it kept its own meanwhile, enough of such loaders would hold every slot and wait for each
  other. So a loader that waits for another load gives its slot away, and takes the next free one to
  go on.
* Cooldown: keys that this process leaves alone for a moment.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Any

from app.core.read_scope import READ_SCOPE
from app.core.tasks import Tasks


@dataclass(slots=True)
class Flight:
    """One shared task. What the task learns about its right to store, joiners may look at."""

    key: str
    depends_on: frozenset[str]
    """The names of the entries and versions that its value stands or falls with."""
    task: asyncio.Task[Any] = field(init=False)
    waiters: int = 0
    token: bytes | None = None
    """The lease its value is computed under: its own, or the one that it waited for in vain. None:
    it has not begun to compute, or there was nobody to ask for a lease."""
    versions: dict[str, bytes] = field(default_factory=dict)
    """The versions, by name, that its value is computed under."""
    is_late: bool = False
    """Some waited for it in vain: it goes on without them."""
    _traceback: TracebackType | None = None

    async def lands_within(self, seconds: float) -> bool:
        """Return whether it ends within so many seconds. Nobody waits again for what is late."""
        if self.is_late or self.task.done():
            return self.task.done()
        self.waiters += 1
        try:
            await asyncio.wait([self.task], timeout=seconds)
            self.is_late = not self.task.done()
        finally:
            self._leave()
        return not self.is_late

    async def wait(self) -> Any:
        """Wait for the task, and return its result.

        Raises:
            Exception: what the task raised; every waiter gets the traceback as it first was.
        """
        self.waiters += 1
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if self._traceback is None:
                self._traceback = error.__traceback__
            raise error.with_traceback(self._traceback) from error.__cause__
        finally:
            self._leave()

    def _leave(self) -> None:
        self.waiters -= 1
        if not (self.waiters or self.is_late or self.task.done()):
            self.task.cancel()


class SingleFlight:
    """The flights of one process, by key."""

    def __init__(self, tasks: Tasks) -> None:
        """Have flights run as `tasks`, which keep also those that are forgotten here."""
        self._tasks = tasks
        self._flights: dict[str, Flight] = {}

    def find(self, key: str) -> Flight | None:
        """Return the flight that a caller of now may join."""
        flight = self._flights.get(key)
        if flight is None or flight.task.cancelling():
            return None
        return flight

    def start(
        self,
        key: str,
        work: Callable[[Flight], Coroutine[Any, Any, Any]],
        depends_on: Iterable[str],
    ) -> Flight:
        """Start `work`; a flight of the same key goes on for those who wait for it already."""
        flight = Flight(key, frozenset(depends_on))
        flight.task = self._tasks.start(work(flight))
        flight.task.add_done_callback(lambda task: self._landed(flight, task))
        self._flights[key] = flight
        return flight

    def forget(self, flight: Flight) -> None:
        """Let callers from now on start a flight of their own."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def forget_dependent(self, names: Iterable[str]) -> None:
        """`forget` all flights that depend on one of these names."""
        changed = set(names)
        for flight in tuple(self._flights.values()):
            if not changed.isdisjoint(flight.depends_on):
                self.forget(flight)

    def _landed(self, flight: Flight, task: asyncio.Task[Any]) -> None:
        self.forget(flight)
        if not task.cancelled():
            task.exception()  # seen, also when every waiter has left


@dataclass(slots=True)
class _Slot:
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


_my_slot: ContextVar[_Slot | None] = ContextVar("slot", default=None)


def adopt(context: Context) -> None:
    """Take over the context variables of another task, but for those that are a load's own."""
    for variable, value in context.items():
        if variable is not _my_slot and variable is not READ_SCOPE:
            variable.set(value)


class Bulkhead:
    """At most `size` loaders at work; the others wait in order."""

    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, and hold it while the body runs."""
        await self._free.acquire()
        slot = _Slot(self._free)
        token = _my_slot.set(slot)
        try:
            yield
        finally:
            _my_slot.reset(token)
            slot.over = True
            slot.give_away()


@asynccontextmanager
async def without_slot() -> AsyncIterator[None]:
    """Give this loader's slot to others while the body waits for another load.

    Does nothing outside of loaders.
    """
    slot = _my_slot.get()
    if slot is None or slot.over:
        yield
        return
    slot.waits += 1
    slot.give_away()
    try:
        yield
    finally:
        slot.waits -= 1
        if not slot.waits:
            await slot.take_again()


_PRUNE_AT = 4096


class Cooldown:
    """Keys that are left alone for a number of seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._prune_at = _PRUNE_AT

    def set(self, key: str, seconds: float) -> None:
        """Leave a key alone for so many seconds."""
        if len(self._until) >= self._prune_at:
            now = monotonic()
            self._until = {key: until for key, until in self._until.items() if until > now}
            self._prune_at = max(_PRUNE_AT, 2 * len(self._until))  # not again at once
        self._until[key] = monotonic() + seconds

    def holds(self, key: str) -> bool:
        """Return whether a key is to be left alone."""
        until = self._until.get(key)
        if until is None:
            return False
        if until > monotonic():
            return True
        del self._until[key]
        return False
