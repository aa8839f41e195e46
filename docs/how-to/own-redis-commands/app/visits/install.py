"""Visits, counted in Redis."""

from fastapi import APIRouter

from app.core.redis import RedisDependency
from app.core.service import Service


def install_visits(service: Service) -> None:
    """Count visits."""
    router = APIRouter()

    @router.post("/page-visits")
    async def count(redis: RedisDependency) -> int:
        return int(await redis.incr(f"{service.name}:data:visits"))

    service.include(router)
