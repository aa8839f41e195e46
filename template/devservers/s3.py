"""An S3 server: moto's, embedded, which keeps everything in memory, or a real one in Docker."""

import asyncio
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import urlopen

from devservers.choice import choose
from devservers.containers import image, running
from devservers.server import EmbeddedServer

_BUCKET = "development"
_REGION = "us-east-1"
_SETTINGS = ("S3_ENDPOINT_URL", "S3_REGION", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY")


class EmbeddedS3(EmbeddedServer):
    """One moto server on the loopback interface, with one bucket; it lets everybody in."""

    _name = "S3"
    _ready = "Running on http"

    @property
    def url(self) -> str:
        """Its address, with a login and the bucket."""
        return f"http://development:development@{self.host}:{self.port}/{_BUCKET}"

    def answers(self) -> bool:
        try:
            with urlopen(f"http://{self.host}:{self.port}/moto-api/", timeout=0.5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def restart(self) -> None:
        super().restart()
        make_bucket(self.url)

    def start(self) -> "EmbeddedS3":
        super().start()
        make_bucket(self.url)
        return self

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)]


def make_bucket(url: str) -> None:
    """Make the bucket of an address such as `EmbeddedS3.url`."""
    import boto3

    where = urlsplit(url)
    boto3.client(
        "s3",
        endpoint_url=f"{where.scheme}://{where.hostname}:{where.port}",
        region_name=_REGION,
        aws_access_key_id=where.username,
        aws_secret_access_key=where.password,
    ).create_bucket(Bucket=where.path.strip("/"))


def settings_of(url: str) -> dict[str, str]:
    """The settings of a service that uses the bucket of an address such as `EmbeddedS3.url`."""
    where = urlsplit(url)
    return {
        "DATABASE_URL": f"s3:/{where.path}",
        "S3_ENDPOINT_URL": f"{where.scheme}://{where.hostname}:{where.port}",
        "S3_REGION": _REGION,
        "S3_ACCESS_KEY_ID": where.username or "",
        "S3_SECRET_ACCESS_KEY": where.password or "",
    }


PREPARATIONS: list[list[str]] = []
"""Commands that bring a new database to the state that the service expects: a bucket needs none."""


@contextmanager
def database_variables() -> Iterator[dict[str, str]]:
    """The bucket that `DATABASE_URL` and `S3_...` name, or one in Docker, or an embedded one.

    Yields the variables that name it.

    Raises:
        ServerUnavailable: it does not answer, or could not be started.
    """
    with choose("database", "DATABASE_URL", ping=_ping, docker=_docker, embedded=_embedded) as s:
        if s.origin == "given":
            given = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
            yield {"DATABASE_URL": s.url, **given}
        else:
            yield settings_of(s.url)


def _ping(url: str) -> None:
    from app.database.s3 import create_database

    async def ping() -> None:
        bucket = create_database(
            url,
            endpoint_url=os.environ.get("S3_ENDPOINT_URL", ""),
            region=os.environ.get("S3_REGION", _REGION),
            access_key_id=os.environ.get("S3_ACCESS_KEY_ID", ""),
            secret_access_key=os.environ.get("S3_SECRET_ACCESS_KEY", ""),
            pool_size=1,
            pool_timeout=4,
            timeout=4,
        )
        await bucket.ping()

    asyncio.run(ping())


@contextmanager
def _docker() -> Iterator[tuple[str, str]]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    # Docker publishes the port to the whole network.
    password = secrets.token_hex(16)
    container = (
        DockerContainer(image("database"))
        .with_env("RUSTFS_ACCESS_KEY", "development")
        .with_env("RUSTFS_SECRET_KEY", password)
        .with_exposed_ports(9000)
        .waiting_for(HttpWaitStrategy(9000, "/health"))
    )
    with running(container):
        host, port = container.get_container_host_ip(), container.get_exposed_port(9000)
        url = f"http://development:{password}@{host}:{port}/{_BUCKET}"
        make_bucket(url)
        yield url, container.image


@contextmanager
def _embedded() -> Iterator[tuple[str, str]]:
    with EmbeddedS3() as s3:
        yield s3.url, "S3 of moto"
