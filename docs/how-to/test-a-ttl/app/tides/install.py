"""Tides, kept for an hour."""

from fastapi import APIRouter

from app.core.cache import Cache
from app.core.service import Service


class Gauge:
    """What is measured."""

    level = 1.0


def install_tides(service: Service, gauge: Gauge, *, ttl: float = 3600) -> None:
    """Serve the level of a gauge, as old as `ttl` seconds at most."""
    policy = service.find(Cache).policy("tide", float, ttl=ttl)
    router = APIRouter()

    @router.get("/tide")
    @policy.http(public=True)
    async def read_tide() -> float:
        return gauge.level

    service.include(router)
