"""Counters, on a Redis of their own."""

from fastapi import APIRouter

from app.core.service import Service


def install_counters(service: Service, url: str) -> None:
    """Count visits on the Redis of `url`."""
    redis = service.redis("counters", url=url, pool_size=4)
    router = APIRouter()

    @router.post("/visits")
    async def count_visit() -> int:
        return int(await redis.incr(f"{service.name}:data:visits"))

    service.include(router)
