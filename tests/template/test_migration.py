"""The migration that Alembic writes for a changed table is one that runs, and passes the checks."""

import subprocess
import sys

import pytest

from devservers.mysql import EmbeddedMySQL
from scripts.running import service_environment
from tests.core.database.backends import installed
from tests.template.conftest import Render

_TABLE = '''"""Orders, as the database keeps them."""

from datetime import datetime

from sqlalchemy import DateTime
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class Moment(TypeDecorator[datetime]):
    impl = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql")
    cache_ok = True


class Base(DeclarativeBase):
    """Orders have one of their own."""


class OrderRow(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
'''
_COLUMN = "    quantity: Mapped[int]\n"
# PostgreSQL keeps it as to_tsvector('english'::regconfig, ((title)::text || ' '::text) || ...
_EXPRESSION = "to_tsvector('english', title || ' ' || coalesce(remark, ''))"
_WITH_EXPRESSION = (
    _TABLE.replace("DateTime\n", "DateTime, Index, String, text\n", 1)
    + f'''\
    title: Mapped[str] = mapped_column(String(100))
    remark: Mapped[str | None]

    __table_args__ = (Index("orders_words", text("{_EXPRESSION}"), postgresql_using="gin"),)
'''
)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["postgres", "mysql", "sqlite"])
def test_a_new_feature_and_a_new_column(service: Render, database: str) -> None:
    if database == "mysql":
        installed(EmbeddedMySQL)
    folder = service(database=database)
    (folder / "app/orders").mkdir()
    (folder / "app/orders/__init__.py").touch()
    table = folder / "app/orders/table.py"
    table.write_text(_WITH_EXPRESSION if database == "postgres" else _TABLE)
    items = folder / "app/items/table.py"
    assert _COLUMN in items.read_text()
    items.write_text(
        items.read_text().replace(_COLUMN, f"{_COLUMN}    price: Mapped[int | None]\n")
    )

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=service_environment() | {"DEVSERVERS": "embedded"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode else ""

    steps = [
        "upgrade heads",
        "revision --autogenerate --head 0001@head -m 'add orders'",
        "upgrade heads",
        "check",  # nothing is left to migrate
        "downgrade base",
    ]
    commands = [f"{sys.executable} -m alembic {step}" for step in steps]
    if database == "postgres":
        # The control: another expression is noticed.
        other_language = f"sed -i.old s/english/german/ {table.relative_to(folder)}"
        commands.insert(-1, f"{other_language} && ! {sys.executable} -m alembic check")
    script = " && ".join(commands)
    assert run("devservers", "--", "sh", "-c", script) == ""
    [migration] = (folder / "migrations/versions").glob("*add_orders.py")
    assert "price" in migration.read_text()
    # MySQL would round moments to seconds.
    assert "DATETIME(fsp=6)" in migration.read_text()
    assert run("ruff", "check", "migrations", "app/items") == ""
    assert run("ruff", "format", "--check", "migrations") == ""
