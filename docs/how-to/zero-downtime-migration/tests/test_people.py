"""Old and new processes write and read one table."""

from sqlalchemy import text

from app.database.engine import Database
from app.people.people import People
from tests.conftest import Client


async def test_old_and_new_processes_share_the_table(client: Client) -> None:
    database: Database = client.app.state.database
    people = People(database)
    async with database.writing() as old:
        await old.execute(text("INSERT INTO people (id, name) VALUES (1, 'ann')"))
    await people.add(2, "bob")
    assert [await people.name_of(each) for each in (1, 2, 3)] == ["ann", "bob", None]
    async with database.reading() as old:
        rows = await old.execute(text("SELECT id, name FROM people ORDER BY id"))
        assert rows.all() == [(1, "ann"), (2, "bob")]
    assert [await people.fill(), await people.fill()] == [1, 0]
    async with database.reading() as contracted:
        rows = await contracted.execute(text("SELECT full_name FROM people ORDER BY id"))
        assert rows.all() == [("ann",), ("bob",)]
