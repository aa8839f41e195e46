"""How products become part of the service."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, HTTPException

from app.core.cache import Cache
from app.core.service import Service
from app.database.engine import Database
from app.products.stock import ProductStock
from app.products.table import ProductRow


def install_products(service: Service, database: Database, cache: Cache) -> ProductStock:
    """Install the routes of products, and return what other features may do with the stock."""
    router = APIRouter(prefix="/products", tags=["products"])
    stocks = cache.policy("product-stock", int, ttl=60)

    @router.post("", status_code=201)
    async def create(stock: Annotated[int, Body(ge=0, embed=True)]) -> UUID:
        row = ProductRow(stock=stock)
        async with database.writing() as session:
            session.add(row)
        return row.id

    @router.get("/{product_id}/stock")
    @stocks.http(public=True, tags=lambda product_id: [f"product:{product_id}"])
    async def stock(product_id: UUID) -> int:
        async with database.reading() as session:
            row = await session.get(ProductRow, product_id)
        if row is None:
            raise HTTPException(404, "no such product")
        return row.stock

    service.include(router)
    return ProductStock(cache)
