"""The tables of all features have a base in common: what that does for them."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
from sqlalchemy import ForeignKey, MetaData, String
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from app.database.engine import Database
from app.database.tables import NAMES, Base
from tests.core.database.backends import Backend


class TestBase(Base):
    """The same, but other tests do without the tables of these."""

    __abstract__ = True
    __test__ = False
    metadata = MetaData(naming_convention=NAMES)


class Child(TestBase):  # before what it refers to
    __tablename__ = "a_child"
    __table_args__ = ({"comment": "a table may have arguments of its own"},)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    parent_id: Mapped[UUID] = mapped_column(ForeignKey("parents.id"))
    at: Mapped[datetime]


class Parent(TestBase):
    __tablename__ = "parents"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(String(20), unique=True)


async def test_a_foreign_key_leads_to_another_table(backend: Backend) -> None:
    async with backend.open() as (database, _):
        if not isinstance(database, Database):
            pytest.skip("there are no tables")
        async with database.writing() as session:
            connection = await session.connection()
            await connection.run_sync(TestBase.metadata.create_all)
        evening = datetime(2026, 1, 1, 23, 0, 0, 123456, timezone(timedelta(hours=5)))
        parent = Parent(id=uuid4(), name=f"{uuid4().hex[:20]}")
        child = Child(parent_id=parent.id, at=evening)
        async with database.writing() as session:
            session.add(parent)
            await session.flush()  # without a relationship, SQLAlchemy knows no order
            session.add(child)
        async with database.reading() as session:
            found = await session.get_one(Child, child.id)
            assert (found.parent_id, found.at, found.at.tzinfo) == (parent.id, evening, UTC)
        with pytest.raises(IntegrityError):
            async with database.writing() as session:
                session.add(Child(parent_id=uuid4(), at=evening))


def test_a_constraint_has_the_same_name_in_every_database() -> None:
    tables = TestBase.metadata.tables.values()
    names = {constraint.name for table in tables for constraint in table.constraints}
    assert names == {"pk_a_child", "fk_a_child_parent_id_parents", "pk_parents", "uq_parents_name"}
