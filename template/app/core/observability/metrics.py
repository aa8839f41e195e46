"""`GET /metrics`, in the format that the scraper asks for: Prometheus text or OpenMetrics."""

import os
from hmac import compare_digest
from pathlib import Path

import structlog
from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import REGISTRY, CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

log = structlog.get_logger(__name__)

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


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
