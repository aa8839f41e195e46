"""Items, as the database keeps them."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, DateTime, Dialect, String, Uuid
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A moment. Databases without time zones keep it in UTC."""

    # MySQL would round to seconds.
    impl = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC)


class Base(DeclarativeBase):
    """What Alembic compares the database with."""


# MySQL keeps them as text, because the UUIDs of MariaDB have an order of their own.
ItemId = Uuid().with_variant(Uuid(native_uuid=False), "mysql")


class ItemRow(Base):
    __tablename__ = "items"
    __table_args__ = ({"mysql_charset": "utf8mb4"},)

    id: Mapped[UUID] = mapped_column(ItemId, primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(String(200))
    quantity: Mapped[int]
    version: Mapped[int] = mapped_column(default=1)
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    """The fence of the last holder of the item's lock that claimed it; see `restock.py`."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=lambda: datetime.now(UTC))
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=lambda: datetime.now(UTC))
