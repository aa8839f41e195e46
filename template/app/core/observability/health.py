"""`GET /health/live` and `GET /health/ready`, and a stop without lost requests.

Live means that the process answers. It checks nothing else, because a restart of this service
would repair nothing else. Ready means that requests sent here will be served. A service that is
told to stop becomes unready first, and stops when load balancers have noticed.
"""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, perf_counter
from types import FrameType
from typing import Any, Literal

import structlog
from fastapi import APIRouter
from fastapi.responses import JSONResponse

log = structlog.get_logger(__name__)

CheckStatus = Literal["ok", "degraded", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """Something that the service needs. `probe` raises or hangs when it does not work."""

    name: str
    probe: Callable[[], Awaitable[object]]
    critical: bool
    """Whether the service is useless without it."""
    timeout: float = 1.0
    """In seconds."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a check."""

    status: CheckStatus
    seconds: float
    error: str | None = None
    """The class of the error. The message is only logged: it may name hosts and users."""


@dataclass(frozen=True, slots=True)
class Report:
    """Whether the service is ready, and why."""

    status: Literal["ok", "degraded", "failed", "draining"]
    checks: dict[str, Result]

    @property
    def ready(self) -> bool:
        return self.status in ("ok", "degraded")

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "checks": {name: _as_json(result) for name, result in self.checks.items()},
        }


def all_of(*probes: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
    """Combine probes: the first error of one of them is raised."""

    async def probe() -> None:
        for each in probes:
            await each()

    return probe


class Health:
    """Runs the checks together, at most once in `keep` seconds."""

    def __init__(self, *checks: Check, keep: float = 1.0) -> None:
        self._probes: dict[str, _Probe] = {}
        for check in checks:
            self.add(check)
        self._keep = keep
        self._results: dict[str, Result] = {}
        self._fresh_until = 0.0
        self._lock = asyncio.Lock()
        self._draining = False

    def add(self, check: Check) -> None:
        """Add a check."""
        self._probes[check.name] = _Probe(check)

    @property
    def draining(self) -> bool:
        return self._draining

    def drain(self) -> None:
        """Be unready from now on, whatever the checks say: the service is about to stop."""
        self._draining = True

    async def report(self) -> Report:
        """Run the checks, or return their results if they have just run."""
        async with self._lock:
            if monotonic() >= self._fresh_until:
                results = await asyncio.gather(*(probe.run() for probe in self._probes.values()))
                self._log_changes(dict(zip(self._probes, results, strict=True)))
                self._fresh_until = monotonic() + self._keep
        return Report(self._status(), self._results)

    def _status(self) -> Literal["ok", "degraded", "failed", "draining"]:
        if self._draining:
            return "draining"
        found = {result.status for result in self._results.values()}
        return "failed" if "failed" in found else "degraded" if "degraded" in found else "ok"

    def _log_changes(self, results: dict[str, Result]) -> None:
        for name, result in results.items():
            before = self._results.get(name)
            if result.status != "ok" and (before is None or before.status == "ok"):
                log.warning("health.check_failed", check=name, reason=self._probes[name].reason)
            elif result.status == "ok" and before is not None and before.status != "ok":
                log.info("health.check_recovered", check=name)
        self._results = results


class _Probe:
    """Runs a check so that it can neither hang nor pile up."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._task: asyncio.Task[Exception | None] | None = None
        self.reason: Exception | None = None
        """Why it failed the last time, if it did."""

    async def run(self) -> Result:
        started = perf_counter()
        self.reason = await self._outcome()
        took = perf_counter() - started
        if self.reason is None:
            return Result("ok", took)
        return Result(
            "failed" if self._check.critical else "degraded", took, type(self.reason).__name__
        )

    async def _outcome(self) -> Exception | None:
        # A probe that ignores its cancellation is not started a second time.
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._attempt())
        try:
            # Unlike `asyncio.timeout`, this does not wait for one that ignores its cancellation.
            await asyncio.wait({self._task}, timeout=self._check.timeout)
        finally:
            self._task.cancel()
        if self._task.done() and not self._task.cancelled():
            return self._task.result()
        return TimeoutError(f"no answer within {self._check.timeout:g} s")

    async def _attempt(self) -> Exception | None:
        try:
            await self._check.probe()
        except Exception as error:
            return error
        return None


def create_health_router(health: Health) -> APIRouter:
    """Make a router with `/health/live` and `/health/ready`."""
    router = APIRouter(prefix="/health", tags=["health"])

    @router.get("/live", summary="Does the process answer?")
    async def live() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @router.get(
        "/ready",
        summary="Should requests be sent here?",
        responses={
            503: {"description": "Not ready, or about to stop", "content": {"application/json": {}}}
        },
    )
    async def ready() -> JSONResponse:
        report = await health.report()
        return JSONResponse(report.as_json(), status_code=200 if report.ready else 503)

    return router


def _as_json(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = {"status": result.status, "ms": round(result.seconds * 1000, 1)}
    if result.error is not None:
        found["error"] = result.error
    return found


@contextmanager
def drain_on_sigterm(health: Health, delay: float) -> Iterator[None]:
    """Make SIGTERM turn the service unready, and stop it `delay` seconds later.

    A server closes its port as soon as it is told to stop, but load balancers send requests until
    they notice that it is unready: `delay` should be a little longer than that takes. A second
    SIGTERM stops at once. Enter this on the running loop after the server has set its own handler,
    as in the lifespan; where there is no such handler, it does nothing.
    """
    stop = signal.getsignal(signal.SIGTERM)
    # Python sets signal handlers only in the main thread, and runs them there.
    if threading.current_thread() is not threading.main_thread() or not callable(stop):
        yield
        return
    loop = asyncio.get_running_loop()

    def drain(number: int, frame: FrameType | None) -> None:
        if health.draining:
            stop(number, frame)
            return
        health.drain()
        loop.call_soon_threadsafe(_announce, delay)
        loop.call_soon_threadsafe(loop.call_later, delay, stop, number, None)

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, stop)


def _announce(delay: float) -> None:
    # Not in the signal handler itself: it may have interrupted a line of the log.
    log.info("service.draining", seconds=delay)
