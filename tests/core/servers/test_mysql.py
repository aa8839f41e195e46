"""MariaDB or MySQL from this machine, in a folder of its own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncmy
import psutil
import pytest
from asyncmy.errors import OperationalError
from sqlalchemy import make_url

from devservers import mysql as mysql_module
from devservers.guard import ServerUnavailable
from devservers.mysql import EmbeddedMySQL
from devservers.waiting import HANG
from tests.core.database.backends import installed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedMySQL]:
    with installed(EmbeddedMySQL) as server:
        yield server


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Unlike pytest's own, other users may enter it: the server does not run as root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def fetch(server: EmbeddedMySQL, query: str, **login: str) -> object:
    url = make_url(server.url)
    login = {"user": url.username or "", "password": url.password or "", **login}
    async with (
        asyncmy.connect(
            host=server.host, port=server.port, db=url.database, connect_timeout=int(HANG), **login
        ) as connection,
        connection.cursor() as cursor,
    ):
        await cursor.execute(query)
        row = await cursor.fetchone()
        return row[0] if row else None


async def test_it_answers_and_listens_on_the_loopback_interface_only(
    server: EmbeddedMySQL,
) -> None:
    assert await fetch(server, "SELECT DATABASE()") == "app"
    assert await fetch(server, "SELECT @@bind_address") == "127.0.0.1"
    places = [c.laddr for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"]
    assert {place.ip for place in places} == {"127.0.0.1"}


@pytest.mark.parametrize(
    "login",
    [{"password": "wrong"}, {"password": ""}, {"user": "root", "password": ""}, {"user": "nobody"}],
)
async def test_it_needs_its_password(server: EmbeddedMySQL, login: dict[str, str]) -> None:
    with pytest.raises(OperationalError):
        await fetch(server, "SELECT 1", **login)


async def test_what_was_committed_survives_a_kill(server: EmbeddedMySQL) -> None:
    await fetch(server, "CREATE TABLE kept (n INT)")
    server.kill()
    assert not server.answers()
    server.restart()
    assert await fetch(server, "SELECT COUNT(*) FROM kept") == 0


def test_it_is_gone_with_its_folder() -> None:
    with installed(EmbeddedMySQL) as server:
        pid, folder = server.pid, server.folder
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


async def test_a_folder_that_is_given_is_kept_and_taken_up_again(open_folder: Path) -> None:
    place = open_folder / "mysql"
    with installed(lambda: EmbeddedMySQL(folder=place)) as first:
        await fetch(first, "CREATE TABLE kept (n INT)")
    with EmbeddedMySQL(folder=place) as again:
        assert await fetch(again, "SELECT COUNT(*) FROM kept") == 0


def test_without_a_server_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(mysql_module, "_PLACES", ())
    with pytest.raises(ServerUnavailable, match="apt install mariadb-server-core"):
        EmbeddedMySQL()
