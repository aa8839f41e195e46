"""How orders become part of the service."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, HTTPException
from sqlalchemy.exc import IntegrityError

from app.core.service import Service
from app.database.engine import Database
from app.orders.orders import Orders, OutOfStock, Stock


def install_orders(service: Service, database: Database, stock: Stock) -> None:
    """Install the routes of orders."""
    router = APIRouter(prefix="/orders", tags=["orders"])
    orders = Orders(database, stock)

    @router.put("/{order_id}", status_code=204)
    async def place(
        order_id: UUID, product_id: Annotated[UUID, Body()], quantity: Annotated[int, Body(ge=1)]
    ) -> None:
        try:
            await orders.place(order_id, product_id, quantity)
        except OutOfStock:
            raise HTTPException(409, "out of stock") from None
        except IntegrityError:
            raise HTTPException(409, "the same order is being placed") from None

    service.include(router)
