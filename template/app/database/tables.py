"""What the tables of all features have in common. A feature has them in a module `table`.

They share one `Base`, so that one feature's foreign keys may name another one's table as a string,
`ForeignKey("items.id")`, without an import. The tables of a second database have a base of their
own, and migrations elsewhere.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Dialect, MetaData, Table, Uuid
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

# Each database would choose names of its own, and a later migration could not tell them.
NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A moment. Databases without time zones keep it in UTC."""

    # MySQL would round to seconds.
    impl = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC)


# MySQL keeps them as text, because the UUIDs of MariaDB have an order of their own.
Id = Uuid().with_variant(Uuid(native_uuid=False), "mysql")


class Base(DeclarativeBase):
    """What Alembic compares the database with.

    `Mapped[datetime]` is a `UtcDateTime` and `Mapped[UUID]` an `Id`, unless the column says
    otherwise. A foreign key has the type of the column that it names.
    """

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {datetime: UtcDateTime, UUID: Id}  # noqa: RUF012 - SQLAlchemy reads it

    @classmethod
    def __table_cls__(cls, *args: Any, **options: Any) -> Table:
        # In MySQL a foreign key of text needs the character set of what it names.
        return Table(*args, **{"mysql_charset": "utf8mb4", **options})
