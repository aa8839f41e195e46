"""Books, found by author and title."""

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from app.books.table import BookRow
from app.database.engine import Database
from app.database.retry import retry_once


class Book(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    author: str
    title: str


class Books:
    """Keeps books in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @retry_once
    async def list(
        self, author: str | None, search: str | None, after: int | None, limit: int
    ) -> list[Book]:
        rows = select(BookRow).order_by(BookRow.id).limit(limit)
        if author is not None:
            rows = rows.where(BookRow.author == author)
        if search is not None:
            rows = rows.where(BookRow.title.icontains(search, autoescape=True))
        if after is not None:
            rows = rows.where(BookRow.id > after)
        async with self._database.reading() as session:
            return [Book.model_validate(row) for row in await session.scalars(rows)]

    @retry_once
    async def add(self, author: str, title: str) -> int:
        row = BookRow(author=author, title=title)
        async with self._database.writing() as session:
            session.add(row)
            await session.flush()
            return row.id
