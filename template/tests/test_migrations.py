"""The schema that the migrations make is the one that the tables describe."""

import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import make_url

from devservers.server import free_port


def alembic(*arguments: str, database_url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        env={**os.environ, "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_table_has_been_changed_without_a_migration(servers: dict[str, str]) -> None:
    """`uv run alembic revision --autogenerate -m "..."` writes one."""
    done = alembic("check", database_url=servers["DATABASE_URL"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_database_that_is_away_is_named_in_one_line(
    servers: dict[str, str], tmp_path: Path
) -> None:
    url = make_url(servers["DATABASE_URL"])
    if url.host:
        url = url.set(port=free_port())
    else:
        url = url.set(database=str(tmp_path / "no-such-folder" / "app.db"))
    done = alembic("upgrade", "head", database_url=url.render_as_string(hide_password=False))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"DATABASE_URL: no connection to {url.host or url.database}: ")
