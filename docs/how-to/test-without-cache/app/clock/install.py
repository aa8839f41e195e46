"""A counter of computations, cached."""

from fastapi import APIRouter

from app.core.cache import Cache
from app.core.service import Service


def install_clock(service: Service) -> None:
    """Serve how often the answer was computed."""
    policy = service.find(Cache).policy("clock", int, ttl=60)
    router = APIRouter()
    computed = 0

    @router.get("/computed")
    @policy.http(public=True)
    async def count() -> int:
        nonlocal computed
        computed += 1
        return computed

    service.include(router)
