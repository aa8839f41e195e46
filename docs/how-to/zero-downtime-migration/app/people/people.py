"""People, written for old and new processes, and read from what either has written."""

from sqlalchemy import select

from app.database.engine import Database
from app.database.retry import retry_once
from app.people.table import PersonRow


class People:
    def __init__(self, database: Database) -> None:
        self._database = database

    @retry_once
    async def add(self, person_id: int, name: str) -> None:
        async with self._database.writing() as session:
            session.add(PersonRow(id=person_id, name=name, full_name=name))

    @retry_once
    async def name_of(self, person_id: int) -> str | None:
        async with self._database.reading() as session:
            row = await session.get(PersonRow, person_id)
            if row is None:
                return None
            return row.full_name or row.name

    @retry_once
    async def fill(self, most: int = 1000) -> int:
        """Fill the new column of so many rows; call it until it returns 0."""
        empty = select(PersonRow).where(PersonRow.full_name.is_(None)).limit(most)
        async with self._database.writing() as session:
            rows = (await session.scalars(empty)).all()
            for row in rows:
                row.full_name = row.name
            return len(rows)
