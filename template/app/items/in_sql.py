"""Items in a table: each method is a transaction of its own, and repeated if that is undone.

It takes the database, never the session of a request: what the cache loads in the background goes
on after the request that asked for it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.engine import Database
from app.database.retry import retry_once
from app.items.errors import ItemNotFound, VersionConflict
from app.items.models import Item, ItemCreate, ItemPage, ItemUpdate, Stock
from app.items.repository import ItemRepository
from app.items.table import ItemRow


class SqlItemRepository(ItemRepository):
    """See `repository.py` for what each method promises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @retry_once
    async def get(self, item_id: UUID) -> Item | None:
        async with self._database.reading() as session:
            row = await session.get(ItemRow, item_id)
            return None if row is None else Item.model_validate(row)

    @retry_once
    async def page(self, after: UUID | None, limit: int) -> ItemPage:
        rows = select(ItemRow).order_by(ItemRow.id).limit(limit + 1)
        if after is not None:
            rows = rows.where(ItemRow.id > after)
        async with self._database.reading() as session:
            found = [Item.model_validate(row) for row in await session.scalars(rows)]
        items, more = found[:limit], len(found) > limit
        return ItemPage(items=items, next_cursor=str(items[-1].id) if more else None)

    @retry_once
    async def names(self, item_ids: Sequence[UUID]) -> dict[UUID, str]:
        rows = select(ItemRow.id, ItemRow.name).where(ItemRow.id.in_(item_ids))
        async with self._database.reading() as session:
            return {row.id: row.name for row in await session.execute(rows)}

    @retry_once
    async def stock(self) -> Stock:
        counted = select(func.count(), func.coalesce(func.sum(ItemRow.quantity), 0))
        async with self._database.reading() as session:
            items, quantity = (await session.execute(counted)).one()
        return Stock(items=items, quantity=quantity)

    @retry_once
    async def create(self, new: ItemCreate) -> Item:
        row = ItemRow(name=new.name, quantity=new.quantity)
        async with self._database.writing() as session:
            session.add(row)
            await session.flush()
            return Item.model_validate(row)

    @retry_once
    async def update(self, item_id: UUID, change: ItemUpdate) -> Item:
        async with self._database.writing() as session:
            changed = await _change(
                session,
                (ItemRow.id == item_id) & (ItemRow.version == change.version),
                name=change.name,
            )
            row = await _existing(session, item_id)
            if not changed:
                raise VersionConflict(row.version)
            return Item.model_validate(row)

    @retry_once
    async def claim(self, item_id: UUID, *, fence: int) -> Item | None:
        async with self._database.writing() as session:
            claimed = await session.execute(
                update(ItemRow)
                .where(ItemRow.id == item_id, ItemRow.fence <= fence)
                .values(fence=fence)
                .execution_options(synchronize_session=False)
            )
            row = await _existing(session, item_id)
            return Item.model_validate(row) if _count(claimed) == 1 else None

    @retry_once
    async def set_quantity(self, item_id: UUID, quantity: int, *, fence: int) -> Item | None:
        async with self._database.writing() as session:
            changed = await _change(
                session, (ItemRow.id == item_id) & (ItemRow.fence == fence), quantity=quantity
            )
            row = await _existing(session, item_id)
            return Item.model_validate(row) if changed else None

    @retry_once
    async def delete(self, item_id: UUID) -> bool:
        async with self._database.writing() as session:
            deleted = await session.execute(delete(ItemRow).where(ItemRow.id == item_id))
            return _count(deleted) == 1


async def _change(session: AsyncSession, condition: Any, **values: Any) -> bool:
    """Update the one row that fits; False if there is none."""
    changed = await session.execute(
        update(ItemRow)
        .where(condition)
        .values(version=ItemRow.version + 1, updated_at=datetime.now(UTC), **values)
        .execution_options(synchronize_session=False)
    )
    return _count(changed) == 1


async def _existing(session: AsyncSession, item_id: UUID) -> ItemRow:
    row = await session.get(ItemRow, item_id)
    if row is None:
        raise ItemNotFound
    return row


def _count(result: Any) -> int:
    assert isinstance(result, CursorResult)
    return result.rowcount
