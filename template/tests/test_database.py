"""The schema is what the tables describe, and migrations say when the database is away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from devservers.server import free_port


@pytest.fixture
def nowhere(servers: dict[str, str], tmp_path: Path) -> URL:
    """A database that is not there."""
    url = make_url(servers["DATABASE_URL"])
    if url.host:
        return url.set(port=free_port())
    return url.set(database=str(tmp_path / "no-such-folder" / "app.db"))


def alembic(*arguments: str, database_url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        env={**os.environ, "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_table_has_been_changed_without_a_migration(servers: dict[str, str]) -> None:
    """`make migration` writes one."""
    done = alembic("check", database_url=servers["DATABASE_URL"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_migrations_name_a_database_that_is_away_in_one_line(nowhere: URL) -> None:
    url = nowhere.render_as_string(hide_password=False)
    done = alembic("upgrade", "head", database_url=url)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("DATABASE_URL: ")]
    assert told[0].startswith(
        f"DATABASE_URL: no connection to {nowhere.host or nowhere.database}: "
    )
    assert "Traceback" not in done.stderr
