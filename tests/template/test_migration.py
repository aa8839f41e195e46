"""The migration that Alembic writes for changed tables is one that runs, and passes the checks."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from devservers.mysql import EmbeddedMySQL
from scripts.running import service_environment
from tests.core.database.backends import installed
from tests.template.answers import ROOT
from tests.template.conftest import Render
from tests.template.edits import delete_the_example

_ORDERS = '''"""Orders: of an account, for an item, both of which other features keep."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables import Base


class OrderRow(Base):
    __tablename__ = "orders"
    __table_args__ = (
        UniqueConstraint("account_id", "number"),
        CheckConstraint("number > 0", name="positive"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    item_id: Mapped[UUID] = mapped_column(ForeignKey("items.id"), index=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    number: Mapped[int]
    created_at: Mapped[datetime]
    title: Mapped[str] = mapped_column(String(100))
    remark: Mapped[str | None] = mapped_column(String(100))
'''
# PostgreSQL keeps it as to_tsvector('english'::regconfig, ((title)::text || ' '::text) || ...
_EXPRESSION = "to_tsvector('english', title || ' ' || coalesce(remark, ''))"
_WITH_EXPRESSION = (
    _ORDERS.replace("String, Uni", "Index, String, Uni")
    .replace("Constraint\nfrom", "Constraint, text\nfrom")
    .replace(
        "    __table_args__ = (\n",
        "    __table_args__ = (\n"
        f'        Index("orders_words", text("{_EXPRESSION}"), postgresql_using="gin"),\n',
    )
)
# Its name comes first, and it has to be made last.
_ARCHIVE = '''"""Where old orders go."""

from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables import Base


class ArchivedRow(Base):
    __tablename__ = "archived"

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"), primary_key=True)
'''
_ELSEWHERE = '''"""What another database keeps."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class LedgerBase(DeclarativeBase):
    pass


class ItemRow(LedgerBase):
    __tablename__ = "items"

    ledger_number: Mapped[int] = mapped_column(primary_key=True)


class EntryRow(LedgerBase):
    __tablename__ = "ledger_entries"

    id: Mapped[int] = mapped_column(primary_key=True)
'''
_FAVOURITES = '''"""What accounts like."""

from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables import Base


class FavouriteRow(Base):
    __tablename__ = "favourites"

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
'''
_COLUMN = "    quantity: Mapped[int]\n"
_CONCURRENTLY = """
from alembic import op

revision = "concurrently"
down_revision = None
branch_labels = None
depends_on = "accounts_0001"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    with op.get_context().autocommit_block():
        op.create_index(
            "words", "accounts", ["password_hash"], postgresql_concurrently=True, if_not_exists=True
        )


def downgrade() -> None:
    op.drop_index("words", "accounts")
"""
# The newest migration of the accounts.
_ACCOUNTS = max(path.stem for path in (ROOT / "template/migrations/versions").glob("accounts_*.py"))
_OF_ACCOUNTS = "    version: Mapped"


def add_tables(folder: Path, feature: str, tables: str) -> Path:
    path = folder / "app" / feature / "table.py"
    path.parent.mkdir(parents=True)
    (path.parent / "__init__.py").touch()
    path.write_text(tables)
    return path


def run(folder: Path, *command: str) -> str:
    """What a command says, if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=service_environment() | {"DEVSERVERS": "embedded"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout[-2000:] or "it failed" if done.returncode else ""


def migration(folder: Path, name: str) -> str:
    [found] = (folder / "migrations/versions").glob(f"*_{name}.py")
    return found.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("database", ["postgres", "mysql", "sqlite"])
def test_tables_that_refer_to_other_features_and_a_new_column(
    service: Render, database: str
) -> None:
    if database == "mysql":
        installed(EmbeddedMySQL)
    folder = service(database=database, sessions=True)
    orders = add_tables(folder, "orders", _WITH_EXPRESSION if database == "postgres" else _ORDERS)
    add_tables(folder, "orders/archive", _ARCHIVE)
    add_tables(folder, "ledger", _ELSEWHERE)
    items = folder / "app/items/table.py"
    assert _COLUMN in items.read_text()
    items.write_text(
        items.read_text().replace(_COLUMN, f"{_COLUMN}    price: Mapped[int | None]\n")
    )

    steps = [
        "upgrade heads",
        "check && exit 1 || true",  # the control: there is something to migrate
        "revision --autogenerate -m 'add orders'",
        "upgrade heads",
        "check",  # nothing is left to migrate
        "downgrade base",
        "upgrade 0001@head",  # what it refers to comes with it
        "upgrade heads",
        "check",
        "downgrade accounts@base",  # and what refers to it goes with it
        "downgrade base",
    ]
    commands = [f"{sys.executable} -m alembic {step}" for step in steps]
    if database == "postgres":
        # The control: another expression is noticed.
        other_language = f"sed -i.old s/english/german/ {orders.relative_to(folder)}"
        commands.insert(-2, f"{other_language} && ! {sys.executable} -m alembic check")
    elif database == "sqlite":
        # Nothing is dropped because its base was mistaken for that of another database.
        other = "s/app.database.tables import Base/app.ledger.table import LedgerBase as Base/"
        commands.insert(
            -2,
            f"sed -i.old '{other}' app/orders/archive/table.py &&"
            f" {sys.executable} -m alembic check 2>&1 | grep 'take `Base` of app.database.tables'",
        )
    script = " && ".join(f"({command})" for command in commands)
    assert run(folder, "devservers", "--", "sh", "-c", script) == ""
    written = migration(folder, "add_orders")
    assert "price" in written
    # MySQL would round moments to seconds.
    assert "DATETIME(fsp=6)" in written
    for name in (
        "pk_orders",
        "fk_orders_item_id_items",
        "fk_archived_order_id_orders",
        "ck_orders_positive",
        "uq_orders_account_id_number",
        "ix_orders_item_id",
    ):
        assert f'op.f("{name}")' in written
    assert f'depends_on = "{_ACCOUNTS}"' in written
    assert "ledger" not in written
    assert run(folder, "ruff", "check", "migrations", "app/items") == ""
    assert run(folder, "ruff", "format", "--check", "migrations") == ""


@pytest.mark.slow
@pytest.mark.parametrize("database", ["postgres", "mysql", "sqlite"])
def test_without_the_example_the_first_table_begins_a_branch(
    service: Render, database: str
) -> None:
    """And what changes a feature that has a branch of its own is on that."""
    if database == "mysql":
        installed(EmbeddedMySQL)
    folder = service(database=database, sessions=True)
    delete_the_example(folder)
    add_tables(folder, "favourites", _FAVOURITES)
    accounts = "app/accounts/table.py"
    assert _OF_ACCOUNTS in (folder / accounts).read_text()
    alembic = f"{sys.executable} -m alembic"
    make_migration = f"{alembic} upgrade heads && {alembic} revision --autogenerate -m"
    script = f"""
        set -e
        {make_migration} first
        {make_migration} nothing
        sed -i.old '/{_OF_ACCOUNTS}/i \\    remark: Mapped[int | None]' {accounts}
        {make_migration} of_accounts
        {alembic} upgrade heads
        {alembic} check
        {alembic} downgrade accounts@base
    """
    if database == "postgres":
        (folder / "concurrently.py").write_text(_CONCURRENTLY)
        script += f"""
        cp concurrently.py migrations/versions/
        {alembic} upgrade heads
        {alembic} current | grep concurrently
        {alembic} downgrade base
        """
    assert run(folder, "devservers", "--", "sh", "-c", script) == ""
    assert "down_revision = None" in migration(folder, "first")
    assert f'depends_on = "{_ACCOUNTS}"' in migration(folder, "first")
    first = re.findall('^revision = (".+")', migration(folder, "first"), re.MULTILINE)
    assert f"down_revision = {first[0]}" in migration(folder, "nothing")
    assert f'down_revision = "{_ACCOUNTS}"' in migration(folder, "of_accounts")
