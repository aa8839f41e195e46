"""People, in the release that expands."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables import Base


class PersonRow(Base):
    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    full_name: Mapped[str | None] = mapped_column(String(100))
