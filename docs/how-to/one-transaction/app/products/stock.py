"""Taking from the stock: part of a transaction that somebody else begins and commits."""

from uuid import UUID

from sqlalchemy import CursorResult, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.cache import Cache
from app.products.table import ProductRow


class ProductStock:
    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def take(self, session: AsyncSession, product_id: UUID, quantity: int) -> bool:
        """Take from the stock, if the transaction of this session is committed.

        False if there are not that many, or no such product.
        """
        taken = await session.execute(
            update(ProductRow)
            .where(ProductRow.id == product_id, ProductRow.stock >= quantity)
            .values(stock=ProductRow.stock - quantity)
            .execution_options(synchronize_session=False)
        )
        assert isinstance(taken, CursorResult)
        return taken.rowcount == 1

    async def changed(self, product_id: UUID) -> None:
        """Invalidate what shows the stock. To be called after the commit."""
        await self._cache.invalidate_tags(f"product:{product_id}")
