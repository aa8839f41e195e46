"""SQLite with several connections: readers and writers do not stand in each other's way."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from app.database import DatabaseUnavailable
from app.database.engine import Database
from app.database.sqlite import create_database
from devservers.waiting import HANG
from tests.support.turns import no_longer_than


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
    async with create_database(url, pool_size=8, pool_timeout=HANG, timeout=HANG) as database:
        async with database.writing() as session:
            await session.execute(text("CREATE TABLE counter (n int)"))
            await session.execute(text("INSERT INTO counter VALUES (0)"))
        yield database


async def read(database: Database) -> int:
    async with database.reading() as session:
        return int(await session.scalar(text("SELECT n FROM counter")) or 0)


async def test_writers_take_turns_and_lose_nothing(database: Database) -> None:
    """Each reads first and writes later: without BEGIN IMMEDIATE some would fail at once."""

    async def add_one() -> None:
        async with database.writing() as session:
            n = await session.scalar(text("SELECT n FROM counter"))
            await asyncio.sleep(0.001)
            await session.execute(text("UPDATE counter SET n = :n"), {"n": (n or 0) + 1})

    await asyncio.gather(*(add_one() for _ in range(20)))
    assert await read(database) == 20


async def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    async with database.writing() as session:
        await session.execute(text("UPDATE counter SET n = 5"))
        # If it did, neither would ever go on.
        assert await read(database) == 0


async def test_a_query_that_does_not_end_is_ended(database: Database) -> None:
    endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT sum(n) FROM c"
    url = database.engine.url.render_as_string()
    async with create_database(url, pool_size=1, pool_timeout=HANG, timeout=1) as hasty:
        async with no_longer_than(1):
            with pytest.raises(DatabaseUnavailable):
                async with hasty.reading() as session:
                    await session.execute(text(endless))
        assert await read(hasty) == 0


@pytest.mark.slow
async def test_a_file_that_another_process_keeps_locked_is_a_clear_error(
    database: Database, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    url = database.engine.url.render_as_string()
    async with create_database(url, pool_size=1, pool_timeout=HANG, timeout=2) as hasty:
        with pytest.raises(DatabaseUnavailable):
            async with hasty.writing() as session:
                await session.execute(text("UPDATE counter SET n = 1"))
    other.execute("ROLLBACK")
    other.close()
    async with database.writing() as session:
        await session.execute(text("UPDATE counter SET n = 2"))
    assert await read(database) == 2
