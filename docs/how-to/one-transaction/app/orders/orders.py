"""Placing an order: it is kept and the stock is taken, or neither."""

from typing import Protocol
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.database.engine import Database
from app.database.retry import retry_once
from app.orders.table import OrderRow


class OutOfStock(Exception):
    """There are not that many."""


class Stock(Protocol):
    """What orders need of whatever keeps the stock."""

    async def take(self, session: AsyncSession, product_id: UUID, quantity: int) -> bool: ...

    async def changed(self, product_id: UUID) -> None: ...


class Orders:
    def __init__(self, database: Database, stock: Stock) -> None:
        self._database = database
        self._stock = stock

    async def place(self, order_id: UUID, product_id: UUID, quantity: int) -> None:
        """Place an order, once, however often it is sent.

        Raises:
            OutOfStock: there are not that many.
        """
        await self._place(order_id, product_id, quantity)
        await self._stock.changed(product_id)  # after the commit

    @retry_once
    async def _place(self, order_id: UUID, product_id: UUID, quantity: int) -> None:
        async with self._database.writing() as session:
            if await session.get(OrderRow, order_id) is not None:
                return  # the answer to the first try was lost
            if not await self._stock.take(session, product_id, quantity):
                raise OutOfStock
            session.add(OrderRow(id=order_id, product_id=product_id, quantity=quantity))
