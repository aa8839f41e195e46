"""The schema is what the tables describe, and a database that is away is a clear error."""

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import URL, make_url

from devservers.server import free_port
from tests.conftest import Serve


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
    [line] = done.stderr.splitlines()
    assert line.startswith(f"DATABASE_URL: no connection to {nowhere.host or nowhere.database}: ")


async def test_without_its_database_the_service_is_live_and_not_ready(
    serve: Serve, nowhere: URL
) -> None:
    async with serve(database_url=nowhere.render_as_string(hide_password=False)) as client:
        assert (await client.get("/health/live")).status_code == 200
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["checks"]["database"]["status"]) == (503, "failed")
        for response in (
            await client.get(f"/items/{uuid4()}"),
            await client.post("/items", json={"name": "lamp"}),
        ):
            assert response.status_code == 503
            assert response.headers["retry-after"]
