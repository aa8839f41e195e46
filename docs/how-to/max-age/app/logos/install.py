"""Logos: clients may keep one for a minute."""

from fastapi import APIRouter

from app.core.cache import Cache
from app.core.service import Service


def install_logos(service: Service) -> None:
    """Serve logos."""
    cache = service.find(Cache)
    router = APIRouter()
    policy = cache.policy("logo", str, ttl=3600)

    @router.get("/logos/{name}")
    @policy.http(public=True, max_age=60)
    async def read_logo(name: str) -> str:
        return f"<svg>{name}</svg>"

    @router.get("/banners/{name}")
    @policy.http(public=True)
    async def read_banner(name: str) -> str:
        return f"<svg>{name}</svg>"

    service.include(router)
