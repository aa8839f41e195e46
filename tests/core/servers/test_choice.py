"""Which server is taken, and what is said about it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from redis import Redis

from devservers import containers
from devservers import valkey as valkey_module
from devservers.containers import image, is_docker_there
from devservers.guard import ServerUnavailable
from devservers.postgres import EmbeddedPostgres, postgres_server
from devservers.server import free_port
from devservers.valkey import EmbeddedValkey, redis_server


@pytest.fixture(autouse=True)
def _nothing_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("REDIS_URL", "DATABASE_URL", "DEVSERVERS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")


@pytest.fixture
def mute_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Docker engine that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        yield


def test_without_anything_an_embedded_valkey(capsys: pytest.CaptureFixture[str]) -> None:
    with redis_server() as server, Redis.from_url(server.url) as client:
        assert server.origin == "embedded"
        version = client.info("server")["valkey_version"]
        assert capsys.readouterr().err == f"redis: embedded Valkey {version} at {server.url}\n"


async def test_without_anything_an_embedded_postgres(capsys: pytest.CaptureFixture[str]) -> None:
    with postgres_server() as server:
        assert server.origin == "embedded"
        connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
        version = (await connection.fetchval("SHOW server_version")).split()[0]
        await connection.close()
        assert (
            capsys.readouterr().err == f"database: embedded PostgreSQL {version} at {server.url}\n"
        )


def test_given_redis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedValkey(requirepass="secret") as valkey:
        monkeypatch.setenv("REDIS_URL", valkey.url)
        with redis_server() as server:
            assert (server.url, server.origin) == (valkey.url, "given")
        assert valkey.answers()  # it is not ours to stop
        where = f"redis://127.0.0.1:{valkey.port}/0"
        assert capsys.readouterr().err == f"redis: REDIS_URL is {where}\n"


def test_given_redis_with_a_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedValkey(requirepass="secret") as valkey:
        monkeypatch.setenv("REDIS_URL", f"redis://:wrong-word@127.0.0.1:{valkey.port}/0")
        with pytest.raises(ServerUnavailable) as caught, redis_server():
            pass
        assert "REDIS_URL" in str(caught.value)
        assert "wrong-word" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:{port}/0", "redis://127.0.0.1:port", "http://x"]
)
def test_given_redis_that_does_not_answer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url.format(port=free_port()))
    with pytest.raises(ServerUnavailable, match=r"REDIS_URL names .*, which does not answer"):
        redis_server().__enter__()


@pytest.mark.slow
def test_given_redis_that_is_frozen_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedValkey() as valkey:
        monkeypatch.setenv("REDIS_URL", valkey.url)
        valkey.freeze()
        monkeypatch.setattr(valkey_module, "PATIENCE", 0.5)
        with pytest.raises(ServerUnavailable, match="REDIS_URL"):
            redis_server().__enter__()


def test_given_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedPostgres() as postgres:
        given = f"{postgres.url}?sslmode=prefer"  # in the words of libpq, as the service takes it
        monkeypatch.setenv("DATABASE_URL", given)
        with postgres_server() as server:
            assert (server.url, server.origin) == (given, "given")
        assert postgres.answers()
        postgres.kill()
        with pytest.raises(ServerUnavailable, match="DATABASE_URL names postgresql"):
            postgres_server().__enter__()


def test_what_is_forced_counts_more_than_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    monkeypatch.setenv("DEVSERVERS", "embedded")
    with redis_server() as server:
        assert server.origin == "embedded"


def test_bad_choice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVSERVERS", "podman")
    with pytest.raises(ServerUnavailable, match="docker or embedded, not 'podman'"):
        redis_server().__enter__()


def test_docker_is_forced_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVSERVERS", "docker")
    with pytest.raises(ServerUnavailable, match="no Docker engine answers"):
        redis_server().__enter__()


def test_absent_docker_is_noticed() -> None:
    assert not is_docker_there()


@pytest.mark.slow
@pytest.mark.usefixtures("mute_engine")
def test_mute_docker_is_not_waited_for() -> None:
    """It never answers, so that a wait without a limit would never end."""
    assert not is_docker_there()


def test_images_are_those_of_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose = tmp_path / "compose.yaml"
    compose.write_text("services: {redis: {image: 'redis:8.2-alpine'}, app: {build: .}}\n")
    monkeypatch.setattr(containers, "_COMPOSE", compose)
    assert image("redis") == "redis:8.2-alpine"


def test_without_docker_its_client_is_not_even_imported() -> None:
    script = """
import sys
from devservers.valkey import EmbeddedValkey
with EmbeddedValkey():
    pass
sys.exit(int("docker" in sys.modules or "testcontainers" in sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(containers.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == 0
