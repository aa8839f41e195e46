"""A transaction within another one of the same task would be no part of it, so there is none."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.database.engine import Database
from app.items.models import ItemCreate
from app.items.repository import ItemRepository
from app.items.table import ItemRow
from tests.core.database.backends import Backend


@pytest.fixture
async def opened(backend: Backend) -> AsyncIterator[tuple[Database, ItemRepository]]:
    async with backend.open() as (database, items):
        if not isinstance(database, Database):
            pytest.skip("there are no transactions")
        yield database, items


async def test_it_is_refused_and_the_outer_one_is_undone(
    opened: tuple[Database, ItemRepository],
) -> None:
    database, items = opened
    row = ItemRow(name="lamp", quantity=1)

    async def nest() -> None:
        async with database.writing() as session:
            session.add(row)
            await session.flush()
            await items.create(ItemCreate(name="a transaction of its own"))

    with pytest.raises(RuntimeError, match="give the session"):
        await nest()
    assert await items.get(row.id) is None
    after = await items.create(ItemCreate(name="the next one"))
    assert await items.get(after.id) == after


async def test_another_task_has_its_own(opened: tuple[Database, ItemRepository]) -> None:
    database, items = opened
    row = ItemRow(name="lamp", quantity=1)
    async with database.writing() as session:
        other = asyncio.create_task(items.create(ItemCreate(name="in the background")))
        session.add(row)
    assert await items.get(row.id) is not None
    assert await items.get((await other).id) is not None
