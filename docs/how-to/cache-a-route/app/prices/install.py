"""Prices, which are read more often than they change."""

from fastapi import APIRouter, Body, HTTPException
from pydantic import BaseModel

from app.core.cache import Cache
from app.core.service import Service


class Price(BaseModel):
    name: str
    cents: int


def install_prices(service: Service) -> None:
    """Serve prices, and cache them."""
    cache = service.find(Cache)
    prices: dict[str, Price] = {}
    router = APIRouter(prefix="/prices")
    policy = cache.policy("price", Price, ttl=60, stale_if_error=3600)

    @router.get("/{name}")
    @policy.http(public=True, tags=lambda name: [f"price:{name}"])
    async def read_price(name: str) -> Price:
        found = prices.get(name)
        if found is None:
            raise HTTPException(404, "no such price")
        return found

    @router.put("/{name}")
    async def change_price(name: str, cents: int = Body(embed=True)) -> Price:
        prices[name] = Price(name=name, cents=cents)
        await cache.invalidate_tags(f"price:{name}")
        return prices[name]

    service.include(router)
