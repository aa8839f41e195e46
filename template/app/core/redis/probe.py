"""What a part needs of its server, tried: at the start, and for the health page.

A PING says that a server answers, not that it does what the part asks of it: the user may lack a
right, the server may be a replica, full, or without its own replicas.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from app.core.redis.clients import RedisClient, refusals_of
from app.core.redis.link import open_pubsub
from app.core.redis.outages import advice, reply_code
from app.core.redis.script import Script

log = structlog.get_logger(__name__)

_WRITE = Script("""
redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
return redis.call('DEL', KEYS[1])
""")
_NOTHING = Script("return 1")
# All words of a denial are about a command, a key or a channel.
_ABOUT_COMMAND = re.compile(
    r"to run the '(?P<command>[^']+)'|can't run this command", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One part of the service, and how it uses its client."""

    part: str
    client: RedisClient
    key: str
    """One that the part might have, which nobody uses."""
    write: Sequence[str] = ("SET", "x", "PX", "1000")
    """A command that it uses, and what comes after the key."""
    publish: str | None = None
    """A channel on which it publishes; a message without text disturbs nobody there."""
    subscribe: str | None = None
    """A channel that it listens to."""

    async def check(self) -> None:
        """For the health page: write something, as the part does.

        Raises:
            Refused: something was refused to the part within the last seconds.
            RedisError: it could not be written.
        """
        await _WRITE.run(self.client, [self.key], self.write)
        refusals_of(self.client).check()

    async def report(self) -> None:
        """Log what the server refuses, and the right that is missing. Raises nothing for it."""
        said = set()
        for command, target, attempt in self._attempts():
            try:
                await attempt()
            except (RedisError, OSError) as error:
                if reply_code(error) is None:
                    return  # it is away, as the report of the server says
                if str(error) not in said:
                    log_refusal(self.part, self.client, command, target, error)
                said.add(str(error))

    def _attempts(self) -> list[tuple[str, str, Callable[[], Awaitable[Any]]]]:
        client, key, (command, *rest) = self.client, self.key, self.write
        attempts: list[tuple[str, str, Callable[[], Awaitable[Any]]]] = [
            (command, key, lambda: client.execute_command(command, key, *rest)),
            ("DEL", key, lambda: client.execute_command("DEL", key)),
            ("EVALSHA", key, lambda: _NOTHING.run(client, [key], [])),
            ("EVAL", key, lambda: client.execute_command(*_NOTHING.in_full([key], []))),
        ]
        if (told := self.publish) is not None:
            attempts.append(("PUBLISH", told, lambda: client.execute_command("PUBLISH", told, "")))
        if (heard := self.subscribe) is not None:
            attempts.append(("SUBSCRIBE", heard, lambda: _subscribe(client, heard)))
        return attempts


def log_refusal(
    part: str, client: RedisClient, command: str, target: str, error: Exception, **more: str
) -> None:
    """Log what the server refuses to a part, and the right that its user lacks.

    Args:
        part: of the service.
        client: whom it was refused to.
        command: what was refused, if the error does not say it.
        target: the key or the channel.
        error: what the server said.
        more: what else to log.
    """
    facts: dict[str, str | None] = {"advice": advice(error)}
    if reply_code(error) == "NOPERM":
        right = _right(error, command, target)
        facts = {"missing": right, "acl": f"user {_user(client)} ... {right}"}
    log.error("redis.refuses", part=part, command=command, error=str(error), **facts, **more)


async def _subscribe(client: RedisClient, channel: str) -> None:
    async with await open_pubsub(client) as pubsub:
        await pubsub.subscribe(channel)
        if await pubsub.get_message(timeout=1.0) is None:
            raise RedisConnectionError("a subscription was not confirmed within 1 s")


def _right(error: Exception, command: str, target: str) -> str:
    """The word that the user's line of the ACL file lacks."""
    if about_command := _ABOUT_COMMAND.search(str(error)):
        return f"+{about_command['command'] or command.lower()}"
    return f"&{target}" if "channel" in str(error) else f"~{target.rpartition(':')[0]}:*"


def _user(client: RedisClient) -> str:
    pool: Any = getattr(client, "connection_pool", client)
    return str(pool.connection_kwargs.get("username") or "default")
