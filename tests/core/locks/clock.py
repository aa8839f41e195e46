"""The test's own hands on the clock of this process: the code under test, and the event loop.

The clocks of the servers are not touched: what they decide is asked of them, or told to them.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

_STEPS = 50
"""Turns of the event loop in which what is due gets done."""


class Clock:
    """`time.monotonic`, which runs on by itself and can be moved forward, or stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = time.monotonic
        self._ahead = 0.0
        self._stopped_at: float | None = None
        monkeypatch.setattr(time, "monotonic", self)  # which is what asyncio's loop reads, too

    def __call__(self) -> float:
        return self._ahead + (self._real() if self._stopped_at is None else self._stopped_at)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Within the block only `advance` moves the clock, however long the machine takes.

        Sleeping and timeouts then end by `advance` alone, so nothing else may wait for time.
        """
        self._stopped_at = self._real()
        try:
            yield
        finally:
            self._ahead -= self._real() - self._stopped_at
            self._stopped_at = None

    def jump(self, seconds: float) -> None:
        """Move it forward while nobody does anything: to this process it is a pause."""
        self._ahead += seconds

    async def advance(self, seconds: float) -> None:
        """Move it forward, and let what is due then be done."""
        self.jump(seconds)
        await self.turn()

    async def advance_until(
        self, condition: Callable[[], object], *, step: float, most: float
    ) -> float:
        """Move a stopped clock forward in steps; how many seconds it took.

        Raises:
            TimeoutError: the condition was still false after `most` seconds of this clock.
        """
        began = self()
        while not condition():
            if self() - began > most:
                raise TimeoutError(f"not within {most} s of the test's clock")
            await self.advance(step)
        return self() - began

    async def turn(self) -> None:
        """Give the event loop some turns, and replies of servers a moment to arrive."""
        for _ in range(_STEPS):
            await asyncio.sleep(0)
        time.sleep(0.001)  # noqa: ASYNC251 - the loop's own sleep would not end on a stopped clock
        for _ in range(_STEPS):
            await asyncio.sleep(0)
