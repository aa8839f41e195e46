"""The same servers in Docker, where there is an engine that has the images or can fetch them."""

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import docker
import pytest
from docker.errors import DockerException
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from devservers import containers
from devservers.containers import is_docker_there
from devservers.guard import ServerUnavailable
from devservers.postgres import postgres_server
from devservers.valkey import redis_server

pytestmark = pytest.mark.skipif(not is_docker_there(), reason="needs a Docker engine")

_IMAGES = {"redis": "redis:8.2-alpine", "database": "postgres:18-alpine"}


@pytest.fixture(autouse=True)
def _docker_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVSERVERS", "docker")


@pytest.fixture
def image(request: pytest.FixtureRequest, compose: Path) -> Iterator[str]:
    """The image of a service, fetched if need be."""
    name = _IMAGES[request.param]
    client = docker.from_env()
    try:
        client.images.get(name)
    except DockerException:
        try:
            client.images.pull(name)
        except DockerException:
            pytest.skip(f"the engine cannot get {name}")
    yield name
    assert not client.containers.list(all=True, filters={"ancestor": name})
    client.close()


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "compose.yaml"
    lines = [f"  {service}: {{image: '{image}'}}" for service, image in _IMAGES.items()]
    path.write_text("\n".join(["services:", *lines]))
    monkeypatch.setattr(containers, "_COMPOSE", path)
    return path


@pytest.mark.parametrize("image", ["redis"], indirect=True)
def test_redis(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    with redis_server() as server:
        assert server.origin == "docker"
        assert capsys.readouterr().err.startswith(f"redis: {image} in Docker at redis://")
        with Redis.from_url(server.url) as client:
            assert client.ping()
            port = client.connection_pool.connection_kwargs["port"]
        # The network may reach it, so it has a password.
        with (
            Redis(port=port, retry=Retry(NoBackoff(), 0)) as stranger,
            pytest.raises(AuthenticationError),
        ):
            stranger.ping()


@pytest.mark.parametrize("image", ["database"], indirect=True)
async def test_postgres(image: str) -> None:
    with postgres_server() as server:
        assert server.origin == "docker"
        connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
        assert str(await connection.fetchval("SHOW server_version")).startswith("18")
        await connection.close()


def test_image_that_does_not_exist_names_the_way_out(compose: Path) -> None:
    compose.write_text("services: {redis: {image: 'localhost:1/nothing:0'}}")
    with pytest.raises(ServerUnavailable, match="DEVSERVERS=embedded"):
        redis_server().__enter__()
