"""Things in a table.

Each method is a transaction of its own, and repeated if that is undone.
"""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select

from app.database.engine import Database
from app.database.retry import retry_once
from scaffold.app.things.models import Thing, ThingCreate, ThingPage, ThingUpdate
from scaffold.app.things.repository import ThingRepository, VersionConflict
from scaffold.app.things.table import ThingRow


class SqlThingRepository(ThingRepository):
    """See `repository.py` for what each method promises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @retry_once
    async def get(self, thing_id: UUID) -> Thing | None:
        async with self._database.reading() as session:
            row = await session.get(ThingRow, thing_id)
            return None if row is None else Thing.model_validate(row)

    @retry_once
    async def page(self, after: UUID | None, limit: int) -> ThingPage:
        rows = select(ThingRow).order_by(ThingRow.id).limit(limit + 1)
        if after is not None:
            rows = rows.where(ThingRow.id > after)
        async with self._database.reading() as session:
            found = [Thing.model_validate(row) for row in await session.scalars(rows)]
        things, more = found[:limit], len(found) > limit
        return ThingPage(things=things, next_cursor=things[-1].id if more else None)

    @retry_once
    async def create(self, new: ThingCreate) -> Thing:
        row = ThingRow(name=new.name)
        async with self._database.writing() as session:
            session.add(row)
            await session.flush()
            return Thing.model_validate(row)

    @retry_once
    async def update(self, thing_id: UUID, change: ThingUpdate) -> Thing | None:
        async with self._database.writing() as session:
            row = await session.get(ThingRow, thing_id, with_for_update=True)
            if row is None:
                return None
            if row.version != change.version:
                raise VersionConflict
            row.name = change.name
            row.version += 1
            row.updated_at = datetime.now(UTC)
            await session.flush()
            return Thing.model_validate(row)

    @retry_once
    async def delete(self, thing_id: UUID) -> bool:
        async with self._database.writing() as session:
            row = await session.get(ThingRow, thing_id, with_for_update=True)
            if row is not None:
                await session.delete(row)
            return row is not None
