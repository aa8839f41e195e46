"""Redis without access control: everybody is the default user, who may do everything."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from devservers.valkey import EmbeddedValkey, redis_server


@contextmanager
def redis_variables() -> Iterator[dict[str, str]]:
    """The variables that say where Redis is."""
    with redis_server() as server:
        yield {"REDIS_URL": server.url}


def own_valkey(settings: object = None, **configuration: str) -> EmbeddedValkey:
    """Make a Redis for the service that may be emptied, frozen and killed."""
    return EmbeddedValkey(**configuration)  # type: ignore[arg-type]  # any of them


def admit(url: str, variables: Mapping[str, str]) -> str:
    """Let the service of these variables into a server that was started for it; returns its URL."""
    return url


def admit_service(variables: Mapping[str, str], settings: object) -> None:
    """Let a service with these settings into the servers of these variables."""
