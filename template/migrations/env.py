"""How Alembic reaches the database: with the settings of the service."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type
from sqlalchemy import Connection, pool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateIndex
from sqlalchemy.types import TypeDecorator

import app
from app.settings import load_settings

# Every feature with tables has them in a module `table`, with a `Base` of its own.
_FEATURES = sorted(path.parent.name for path in Path(app.__file__).parent.glob("*/table.py"))
_TABLES = [import_module(f"app.{feature}.table").Base.metadata for feature in _FEATURES]

# Two replicas that start together must not migrate at the same time.
_ADVISORY_LOCK = 4_201_337_001
# Seconds to wait for the other one.
_PATIENCE = 300


def render(kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    """How a new migration writes a type of our own: as what the database keeps.

    Code that a migration imports might be another one when it runs.
    """
    # Alembic has no public way to ask for it; with what else a database may need, such as
    # `.with_variant(mysql.DATETIME(fsp=6), "mysql")`, and its import.
    return _repr_type(item.impl_instance, context) if isinstance(item, TypeDecorator) else False


def differs(
    connection: Connection, item: Any, _name: str | None, kind: str, _reflected: bool, there: Any
) -> bool:
    """Whether what Alembic takes for changed is another one in the database, too.

    PostgreSQL writes the expression of an index in its own way, with casts and parentheses that
    nobody has typed. So it is asked how it would write the one of our tables.
    """
    if connection.dialect.name != "postgresql" or kind != "index" or there is None:
        return True
    quoted = connection.dialect.identifier_preparer
    table, index = quoted.format_table(item.table), quoted.quote(item.name)
    schema = f"{quoted.quote(item.table.schema)}." if item.table.schema else ""
    theirs = definition(connection, schema + index)
    trial = connection.begin_nested()
    try:
        copy = quoted.quote(item.table.name)
        connection.execute(text(f"CREATE TEMP TABLE {copy} (LIKE {table})"))
        elsewhere = {"schema_translate_map": {item.table.schema: "pg_temp"}}
        connection.execute(CreateIndex(item), execution_options=elsewhere)
        return definition(connection, f"pg_temp.{index}") != theirs
    except DBAPIError:
        return True  # such as for a column that is still to come
    finally:
        trial.rollback()


def definition(connection: Connection, index: str) -> tuple[bool, str]:
    """What an index of PostgreSQL is, whatever it and its table are called."""
    found = text("SELECT pg_get_indexdef(to_regclass(:index))")
    head, _, rest = str(connection.scalar(found, {"index": index})).partition(" USING ")
    return head.startswith("CREATE UNIQUE"), rest


def migrate(connection: Connection) -> None:
    with alone(connection):
        context.configure(
            connection=connection,
            include_object=partial(differs, connection),
            target_metadata=_TABLES,
            render_item=render,
            render_as_batch=connection.dialect.name == "sqlite",
        )
        with context.begin_transaction():
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            context.run_migrations()


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """Keep others out where a transaction of Alembic's own would not."""
    if connection.dialect.name == "sqlite":
        # A write transaction from the first statement on, with the schema in it.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
        connection.commit()
    elif connection.dialect.name == "mysql":
        with named_lock(connection):
            yield
    else:
        yield


@contextmanager
def named_lock(connection: Connection) -> Iterator[None]:
    """A lock of MySQL that outlives transactions: changes of the schema are not part of any.

    What a failure interrupts has to be mended by hand there, so keep each migration to one change.
    """
    taken = connection.scalar(text(f"SELECT GET_LOCK('{_ADVISORY_LOCK}', {_PATIENCE})"))
    connection.rollback()  # of this SELECT: Alembic must not find a transaction begun
    if taken != 1:
        raise TimeoutError(f"another migration has been running for {_PATIENCE} s")
    try:
        yield
    finally:
        connection.execute(text(f"SELECT RELEASE_LOCK('{_ADVISORY_LOCK}')"))


def say_goodbye() -> None:
    """Let the driver's thread end while its loop is there: it would complain into our answer."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(timeout=1)


async def main() -> None:
    settings = load_settings()
    engine = create_async_engine(
        settings.database_url.get_secret_value(),
        poolclass=pool.NullPool,
        connect_args=settings.database_connect_args,
    )
    try:
        connection = await engine.connect()
    except (OSError, DBAPIError) as error:
        place = engine.url.host or engine.url.database
        reason = error.orig if isinstance(error, DBAPIError) else error
        if engine.dialect.name == "sqlite":
            say_goodbye()
        sys.exit(f"DATABASE_URL: no connection to {place}: {reason}")
    async with aclosing(connection):
        await connection.run_sync(migrate)


asyncio.run(main())
