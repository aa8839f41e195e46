"""Parcels: that there is none is worth knowing, too."""

from fastapi import APIRouter, HTTPException

from app.core.cache import Cache
from app.core.service import Service


def install_parcels(service: Service) -> None:
    """Serve parcels."""
    cache = service.find(Cache)
    parcels: set[str] = set()
    router = APIRouter(prefix="/parcels")
    policy = cache.policy("parcel", str, ttl=60, negative_ttl=10)

    @router.get("/{number}")
    @policy.http(public=True, tags=lambda number: [f"parcel:{number}"])
    async def read_parcel(number: str) -> str:
        if number not in parcels:
            raise HTTPException(404, "no such parcel")
        return number

    @router.put("/{number}", status_code=204)
    async def create_parcel(number: str) -> None:
        parcels.add(number)
        await cache.invalidate_tags(f"parcel:{number}")

    service.include(router)
