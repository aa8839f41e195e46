"""One command to one server, whatever its role."""

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE


def ask(server: EmbeddedValkey, *command: str | int) -> Any:
    """The reply, as text, over a connection of its own.

    Raises:
        redis.exceptions.RedisError: an error was the reply, or there was none within ten seconds.
    """
    client = Redis(
        port=server.port,
        socket_timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    with client:
        return client.execute_command(*command)
