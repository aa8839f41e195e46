"""A file for SQLite, which goes with its folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from devservers.guard import Guard
from devservers.migrations import PREPARATIONS as PREPARATIONS


@contextmanager
def database_variables() -> Iterator[dict[str, str]]:
    """The variable that says where the database is."""
    with Guard("sqlite") as guard:
        given = os.environ.get("DATABASE_URL")
        yield {"DATABASE_URL": given or f"sqlite+aiosqlite:///{guard.folder / 'app.db'}"}
