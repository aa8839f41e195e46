"""Metrics: how they are counted at little cost, and `GET /metrics`, where they are read.

The format is the one that the scraper asks for: Prometheus text or OpenMetrics.
"""

import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from hmac import compare_digest
from itertools import product
from pathlib import Path

import structlog
from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

log = structlog.get_logger(__name__)

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_BUFFER_LIMIT = 100
"""The most events that Prometheus is not told of yet."""


def begin_at_zero(metric: Counter | Histogram, *labels: Iterable[str]) -> None:
    """Create a series for each combination of the values of the labels.

    Prometheus compares a counter with its value at the scrape before. A series that begins with its
    first event has none, so `increase()` is 0 and no alert sees that event.

    Args:
        metric: has these labels, in this order.
        labels: the values that each of them may have.
    """
    for values in product(*labels):
        metric.labels(*values)


class BufferedMetrics(Collector):
    """Counts that are told to Prometheus a hundred at a time. It has no metrics of its own.

    Telling it of each request as it ends takes 4 microseconds of a busy server, a tenth of a cached
    response; of many in a row it takes 1 each. Whoever scrapes gets all of them.

    Make it before the metrics: a registry asks its collectors in the order in which they came.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Counter, Histogram | None, float]] = deque()
        # Where several processes share a port, another one may be asked for this one's.
        self._most = 1 if _FOLDER in os.environ else _BUFFER_LIMIT
        REGISTRY.register(self)

    def add(self, total: Counter, seconds: Histogram | None = None, took: float = 0) -> None:
        """Count one, and observe that it took so many seconds."""
        self._waiting.append((total, seconds, took))
        if len(self._waiting) >= self._most:
            self._tell()

    def collect(self) -> Iterable[Metric]:
        self._tell()
        return ()

    def describe(self) -> Iterable[Metric]:
        return ()

    def _tell(self) -> None:
        counts: dict[Counter, int] = {}
        with suppress(IndexError):  # none is left: another thread may scrape, too
            while True:
                total, seconds, took = self._waiting.popleft()
                if seconds is not None:
                    seconds.observe(took)
                counts[total] = counts.get(total, 0) + 1
        for total, count in counts.items():
            total.inc(count)


def create_metrics_router(*, token: str = "") -> APIRouter:
    """Make a router with `/metrics`: those of the service, and memory, CPU and garbage collector.

    They are those of the process that answers. Where several processes share a port, set
    PROMETHEUS_MULTIPROC_DIR to an empty folder before they start: they add theirs up there (and
    leave out memory, CPU and garbage collector).

    Args:
        token: has to come along as `Authorization: Bearer ...`, else 401; empty: all may look.
    """
    # Gauges with the age of each series, which nothing asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # has no annotations
    registry = _registry()
    router = APIRouter()

    @router.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        if token and not _is_bearer(request, token):
            raise HTTPException(401, "METRICS_TOKEN is needed", {"www-authenticate": "Bearer"})
        _forget_the_dead()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router


def _is_bearer(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and compare_digest(given.encode(), token.encode())


def _registry() -> CollectorRegistry:
    if _FOLDER not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # has no annotations
    return registry


def _forget_the_dead() -> None:
    """Remove the gauges of processes that are gone, however they ended.

    What they counted stays: a sum that falls when a process is replaced would look like a reset.
    """
    if _FOLDER in os.environ:
        for kind in ("gauge_live*", "gauge_all"):
            for path in Path(os.environ[_FOLDER]).glob(f"{kind}_*.db"):
                if not _is_alive(int(path.stem.rpartition("_")[2])):
                    path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def warn_of_scattered_metrics() -> None:
    """Say so where several processes share a port, and each answers with its own metrics.

    Call it when the process begins to serve: at least one of several sees another one then.
    """
    if _FOLDER not in os.environ and _has_twin():
        log.warning(
            "metrics.scattered",
            why="several processes of this service run side by side, and each scrape gets the "
            f"numbers of another one: set {_FOLDER} to an empty folder before they start",
        )


def _has_twin() -> bool:
    """Whether this process's parent has another child that runs the same program."""
    try:
        own = _command(os.getpid())
        children = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
        return any(_command(int(pid)) == own for pid in children if int(pid) != os.getpid())
    except OSError:  # another system, or a process that has just ended
        return False


def _command(pid: int) -> tuple[bytes, ...]:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    # Processes that multiprocessing spawns differ in the number of a pipe only.
    return tuple(word.partition(b"(")[0] for word in words)
