"""Shipments: that there is none is worth knowing, too."""

from fastapi import APIRouter, HTTPException

from app.core.cache import Cache
from app.core.service import Service


def install_shipments(service: Service) -> None:
    """Serve shipments."""
    cache = service.find(Cache)
    shipments: set[str] = set()
    router = APIRouter(prefix="/shipments")
    policy = cache.policy("shipment", str, ttl=60, negative_ttl=10)

    @router.get("/{number}")
    @policy.http(public=True, tags=lambda number: [f"shipment:{number}"])
    async def read_shipment(number: str) -> str:
        if number not in shipments:
            raise HTTPException(404, "no such shipment")
        return number

    @router.put("/{number}", status_code=204)
    async def create_shipment(number: str) -> None:
        shipments.add(number)
        await cache.invalidate_tags(f"shipment:{number}")

    service.include(router)
