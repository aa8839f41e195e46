"""Menus, with a way to forget all of them."""

from fastapi import APIRouter

from app.core.cache import Cache
from app.core.service import Service


def install_menus(service: Service) -> None:
    """Serve menus."""
    policy = service.find(Cache).policy("menu", str, ttl=86_400)
    router = APIRouter(prefix="/menus")

    @router.get("/{day}")
    @policy.http(public=True)
    async def read_menu(day: str) -> str:
        return f"soup on {day}"

    @router.delete("/cached", status_code=204)
    async def forget_menus() -> None:
        await policy.clear()

    service.include(router)
