"""What is asked for most, loaded before somebody asks: at the start, and anew every night."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

import structlog

log = structlog.get_logger(__name__)

_AT_ONCE = 4
"""Loads of a group at once: those that somebody waits for go first."""


class Warmable(Protocol):
    """A cached function or a public cached route."""

    async def warm(self, *args: Any, **kwargs: Any) -> None: ...

    async def refresh(self, *args: Any, **kwargs: Any) -> Any: ...


HotCall = tuple[Warmable, Mapping[str, Any]]
"""What is cached, and the arguments with which it is asked for most."""
HotCalls = Callable[[], AsyncIterator[HotCall]]


@dataclass(frozen=True, slots=True)
class WarmingReport:
    """How it went."""

    loaded: int
    failed: int


class Warmer:
    """The groups of hot calls of one service."""

    def __init__(self) -> None:
        self._groups: dict[str, HotCalls] = {}

    def add(self, name: str, calls: HotCalls) -> None:
        """Add a group.

        Raises:
            ValueError: there is one of this name.
        """
        if name in self._groups:
            raise ValueError(f"there are hot calls {name!r} already")
        self._groups[name] = calls

    async def warm(self) -> WarmingReport:
        """Load what is not cached yet."""
        return await self._run(lambda cached, arguments: cached.warm(**arguments))

    async def refresh(self) -> WarmingReport:
        """Load everything anew, in place: what fails keeps its old value."""
        return await self._run(lambda cached, arguments: cached.refresh(**arguments))

    async def _run(
        self, do: Callable[[Warmable, Mapping[str, Any]], Awaitable[Any]]
    ) -> WarmingReport:
        reports = [await self._run_group(name, do) for name in self._groups]
        return WarmingReport(
            sum(report.loaded for report in reports), sum(report.failed for report in reports)
        )

    async def _run_group(
        self, name: str, do: Callable[[Warmable, Mapping[str, Any]], Awaitable[Any]]
    ) -> WarmingReport:
        """Never raises an error of a loader: one that fails does not keep the others cold."""
        slots, started = asyncio.Semaphore(_AT_ONCE), monotonic()
        loaded, errors = 0, list[Exception]()

        async def run_one(cached: Warmable, arguments: Mapping[str, Any]) -> None:
            nonlocal loaded
            try:
                await do(cached, arguments)
                loaded += 1
            except Exception as error:
                errors.append(error)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as tasks:
            try:
                async for cached, arguments in self._groups[name]():
                    await slots.acquire()
                    tasks.create_task(run_one(cached, arguments))
            except Exception as error:
                errors.append(error)
        seconds = round(monotonic() - started, 3)
        if errors:
            log.warning(
                "cache.warming_failed",
                group=name,
                loaded=loaded,
                failed=len(errors),
                error=repr(errors[0]),
            )
        else:
            log.info("cache.warmed", group=name, loaded=loaded, seconds=seconds)
        return WarmingReport(loaded, len(errors))
