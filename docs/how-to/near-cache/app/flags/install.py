"""Feature flags, asked for by every request."""

from fastapi import APIRouter

from app.core.cache import Cache
from app.core.service import Service


def install_flags(service: Service) -> None:
    """Serve flags."""
    policy = service.find(Cache).policy("flag", bool, ttl=60, near_ttl=5)
    flags = {"dark": True}
    router = APIRouter(prefix="/flags")

    @router.get("/{name}")
    async def read_flag(name: str) -> bool:
        async def load() -> bool:
            return flags.get(name, False)

        return await policy.get_or_load(name, load)

    service.include(router)
