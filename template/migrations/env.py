"""How Alembic reaches the database: with the settings of the service."""

import asyncio
from importlib import import_module
from pathlib import Path

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

import app
from app.settings import load_settings

# Every feature with tables has them in a module `table`, with a `Base` of its own.
_FEATURES = sorted(path.parent.name for path in Path(app.__file__).parent.glob("*/table.py"))
_TABLES = [import_module(f"app.{feature}.table").Base.metadata for feature in _FEATURES]

# Two replicas that start together must not migrate at the same time.
_ADVISORY_LOCK = 4_201_337_001


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=_TABLES,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        context.run_migrations()


async def main() -> None:
    url = load_settings().database_url.get_secret_value()
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(main())
