"""`GET /metrics`, in the format that the scraper asks for: Prometheus text or OpenMetrics."""

import os

from fastapi import APIRouter, Request, Response
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector


def create_metrics_router() -> APIRouter:
    """A router with `/metrics`: those of the service, and memory, CPU and garbage collector.

    They are those of the process that answers. Where several processes share a port, set
    PROMETHEUS_MULTIPROC_DIR to an empty folder before they start: they add theirs up there (and
    leave out memory, CPU and garbage collector).
    """
    registry = _registry()
    router = APIRouter()

    @router.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router


def _registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # has no annotations
    return registry
