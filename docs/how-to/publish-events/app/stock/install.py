"""Stock, whose changes are events."""

from fastapi import APIRouter

from app.core.cache import Cache
from app.core.events import Event, Events
from app.core.service import Service


class StockChanged(Event, name="stock.changed"):
    product: str


def install_stock(service: Service, publisher: str) -> list[str]:
    """Publish changes, and forget what those of `publisher` make wrong; returns what was told."""
    cache, events = service.find(Cache), service.find(Events)
    router = APIRouter()
    told: list[str] = []

    @router.put("/stock/{product}", status_code=204)
    async def change(product: str) -> None:
        await events.publish(StockChanged(product=product))  # after the commit

    @events.on(publisher, StockChanged)
    async def forget(event: StockChanged) -> None:
        await cache.invalidate_tags(f"stock:{event.product}")
        told.append(event.product)

    service.include(router)
    return told
