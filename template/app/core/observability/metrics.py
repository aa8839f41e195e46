"""`GET /metrics`, in the format that the scraper asks for: Prometheus text or OpenMetrics."""

import os
from hmac import compare_digest

from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector


def create_metrics_router(*, token: str = "") -> APIRouter:
    """Make a router with `/metrics`: those of the service, and memory, CPU and garbage collector.

    They are those of the process that answers. Where several processes share a port, set
    PROMETHEUS_MULTIPROC_DIR to an empty folder before they start: they add theirs up there (and
    leave out memory, CPU and garbage collector).

    Args:
        token: has to come along as `Authorization: Bearer ...`, else 401; empty: all may look.
    """
    registry = _registry()
    router = APIRouter()

    @router.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        if token and not _is_bearer(request, token):
            raise HTTPException(401, "METRICS_TOKEN is needed", {"www-authenticate": "Bearer"})
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router


def _is_bearer(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and compare_digest(given.encode(), token.encode())


def _registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # has no annotations
    return registry
