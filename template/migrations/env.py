"""How Alembic reaches the database: with the settings of the service."""

import asyncio
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type
from alembic.operations.ops import DropIndexOp, DropTableOp, MigrationScript, ModifyTableOps
from alembic.script import Script
from alembic.util import CommandError
from sqlalchemy import Connection, Index, UniqueConstraint, inspect, pool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateIndex, conv
from sqlalchemy.types import TypeDecorator

import app
from app.database.tables import Base
from app.settings import load_settings

_ROOT = Path(app.__file__).parent
# Every feature with tables has them in a module `table`. What has another base than `Base` there
# belongs to another database.
_MODULES = [
    import_module(".".join(("app", *path.relative_to(_ROOT).with_suffix("").parts)))
    for path in sorted(_ROOT.rglob("table.py"))
]
_ELSEWHERE = {
    row.__tablename__: module.__name__
    for module in _MODULES
    for row in vars(module).values()
    if hasattr(row, "__tablename__") and row.metadata is not Base.metadata
}

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


def arrange(_: Any, __: Any, directives: list[MigrationScript]) -> None:
    """Have a new migration go through where tables refer to each other."""
    [script] = directives
    changed = {getattr(each, "table_name", None) for each in script.upgrade_ops_list[0].ops}
    tables = {name for name in changed if name is not None}
    continue_their_branch(script, tables)
    run_after_other_branches(script, tables)
    for changes in (*script.upgrade_ops_list, *script.downgrade_ops_list):
        # Indexes go with their table. MySQL keeps one that a foreign key needs.
        dropped = {each.table_name for each in changes.ops if isinstance(each, DropTableOp)}
        changes.ops = [
            each
            for each in changes.ops
            if not (isinstance(each, ModifyTableOps) and each.table_name in dropped)
            or not all(isinstance(part, DropIndexOp) for part in each.ops)
        ]


# A branch is labelled with the name of its feature; one without a label has all the others.
def features_of(tables: Collection[str]) -> set[str]:
    """Which features have these tables; one that is gone is taken for a feature of its name."""
    known = {
        name: mapper.class_.__module__.split(".")[1]
        for mapper in Base.registry.mappers
        if (name := getattr(mapper.local_table, "name", None)) in tables
    }
    return {known.get(name, name) for name in tables}


def all_heads() -> tuple[Script, ...]:
    """The newest migration of each branch, also of those that others depend on."""
    return context.script.get_revisions(context.script.get_heads())


def continue_their_branch(script: MigrationScript, tables: set[str]) -> None:
    """Have a new migration continue the branch of the feature whose tables change.

    Of several such branches, one. Not where the command names a head, or where several branches
    without a label are there.
    """
    heads = all_heads()
    if script.head not in {None, "head"} or not heads:
        return
    features = features_of(tables)
    own = [head for head in heads if features & head.branch_labels]
    others = [head for head in heads if not head.branch_labels]
    if features and features <= set().union(*(head.branch_labels for head in own)):
        script.head = min(own, key=lambda head: sorted(head.branch_labels)).revision
    elif others:
        if len(others) == 1:
            script.head = others[0].revision
    else:
        script.head = "base"


def run_after_other_branches(script: MigrationScript, tables: set[str]) -> None:
    """Have a new migration depend on those of other branches that make what it needs."""
    referred = {
        key.referred_table.name
        for table in Base.metadata.tables.values()
        if table.name in tables
        for key in table.foreign_key_constraints
    }
    features = features_of(tables | referred)
    heads = all_heads()
    labels = set().union(*(head.branch_labels for head in heads))
    needed = {
        head.revision
        for head in heads
        if head.branch_labels & features or (not head.branch_labels and features - labels)
    }
    needed -= {own.revision for own in context.script.get_revisions(script.head or ())}
    if needed:
        given = [script.depends_on] if isinstance(script.depends_on, str) else script.depends_on
        script.depends_on = [*(given or []), *sorted(needed)]


def differs(
    connection: Connection, item: Any, name: str | None, kind: str, reflected: bool, there: Any
) -> bool:
    """Whether what Alembic takes for changed is another one in the database, too."""
    if kind == "table" and there is None and reflected and name in _ELSEWHERE:
        # Rather than to write a migration that drops it.
        raise CommandError(
            f"the table {name!r} is in this database, but the base of {_ELSEWHERE[name]} is another"
            " one: take `Base` of app.database.tables"
        )
    if kind == "unique_constraint" and there is None and not reflected:
        return not is_there(connection, item)
    if kind in {"unique_constraint", "index"} and there is None and reflected:
        return not is_ours(item)
    if kind == "index" and there is not None and connection.dialect.name == "postgresql":
        return is_other_index(connection, item)
    return True


# A database names what a migration did not name, as before there was a naming convention. That
# name is as good as ours.
def is_there(connection: Connection, item: UniqueConstraint) -> bool:
    """Whether the database has a constraint of ours, under whatever name."""
    there = inspect(connection).get_unique_constraints(item.table.name, item.table.schema)
    columns = set(item.columns.keys())
    return isinstance(item.name, conv) and any(set(c["column_names"]) == columns for c in there)


def is_ours(item: UniqueConstraint | Index) -> bool:
    """Whether what the database has is a constraint of ours; MySQL calls those indexes."""
    unique = isinstance(item, UniqueConstraint) or item.unique
    if not unique or item.table is None or item.table.key not in Base.metadata.tables:
        return False
    return any(
        isinstance(each, UniqueConstraint)
        and isinstance(each.name, conv)
        and set(each.columns.keys()) == set(item.columns.keys())
        for each in Base.metadata.tables[item.table.key].constraints
    )


def is_other_index(connection: Connection, item: Index) -> bool:
    """Whether PostgreSQL has another index than ours.

    It writes the expression of one in its own way, with casts and parentheses that nobody has
    typed. So it is asked how it would write the one of our tables.
    """
    assert item.table is not None
    assert item.name is not None
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
            # In a list, or migrations of before the naming convention would give new databases
            # other names than older ones have. A new migration states all names.
            target_metadata=[Base.metadata],
            render_item=render,
            process_revision_directives=arrange,
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
