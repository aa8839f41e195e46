"""Books, as the database keeps them."""

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables import Base


class BookRow(Base):
    __tablename__ = "books"
    __table_args__ = (Index(None, "author", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    author: Mapped[str] = mapped_column(String(100))
    title: Mapped[str] = mapped_column(String(200))
