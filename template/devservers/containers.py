"""Servers in Docker, from the very images that `compose.yaml` pins."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml

from devservers.guard import ServerUnavailable

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

_COMPOSE = Path(__file__).parents[1] / "compose.yaml"
# Seconds that the engine has for an answer: whoever has none should not wait for it.
_TIMEOUT = 0.5

AnyContainer = TypeVar("AnyContainer", bound="DockerContainer")


def is_docker_there() -> bool:
    """Whether a Docker engine answers; takes less than a second."""
    from docker.errors import DockerException
    from testcontainers.core.docker_client import DockerClient

    try:
        client = DockerClient(timeout=_TIMEOUT).client
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except (DockerException, OSError):
        return False
    finally:
        client.close()


def image(service: str) -> str:
    """The image of one of the services in `compose.yaml`."""
    name: str = yaml.safe_load(_COMPOSE.read_text("utf-8"))["services"][service]["image"]
    return name


@contextmanager
def running(container: AnyContainer) -> Iterator[AnyContainer]:
    """Run a container; it is removed afterwards, with its data.

    Raises:
        ServerUnavailable: it could not be started.
    """
    from docker.errors import DockerException

    try:
        container.start()
    except (DockerException, OSError) as error:
        container.stop()
        raise ServerUnavailable(
            f"{container.image} could not be started in Docker: {error}\n"
            "DEVSERVERS=embedded does without Docker."
        ) from error
    try:
        yield container
    finally:
        container.stop()
