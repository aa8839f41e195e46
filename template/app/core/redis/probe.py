"""What a part of the service needs of its server, tried.

A PING shows that a server answers, not that it does what a part asks of it: the user may lack a
permission, the server may be a replica, full, or without its replicas. So each part has a `Probe`,
which tries what it needs at the start and for the health page.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from app.core.redis.clients import RedisClient, refusals_of
from app.core.redis.outages import advice, reply_code
from app.core.redis.pubsub import open_pubsub
from app.core.redis.script import Script

log = structlog.get_logger(__name__)

_WRITE = Script("""
redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
return redis.call('DEL', KEYS[1])
""")
_NOTHING = Script("return 1")
# A denial is about a command, a key or a channel.
_ABOUT_COMMAND = re.compile(
    r"to run the '(?P<command>[^']+)'|can't run this command", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What one part of the service needs of its server."""

    part: str
    client: RedisClient
    key: str
    """A key that the part may write, which nothing else uses."""
    write: Sequence[str] = ("SET", "x", "PX", "1000")
    """A command that the part uses, and its arguments after the key."""
    publish: str | None = None
    """A channel on which it publishes; listeners ignore the empty message."""
    subscribe: str | None = None
    """A channel on which it listens."""

    async def check(self) -> None:
        """Write as the part does, for the health page.

        Raises:
            Refused: the part was refused a command within the last 10 seconds.
            RedisError: the write failed.
        """
        await _WRITE.run(self.client, [self.key], self.write)
        refusals_of(self.client).check()

    async def report(self) -> None:
        """Log each refusal with the missing permission; raise nothing for it."""
        logged = set()
        for command, target, attempt in self._attempts():
            try:
                await attempt()
            except (RedisError, OSError) as error:
                if reply_code(error) is None:
                    return  # the server is away, which its own report logs
                if str(error) not in logged:
                    log_refusal(self.part, self.client, command, target, error)
                logged.add(str(error))

    def _attempts(self) -> list[tuple[str, str, Callable[[], Awaitable[Any]]]]:
        client, key, (command, *rest) = self.client, self.key, self.write
        attempts: list[tuple[str, str, Callable[[], Awaitable[Any]]]] = [
            (command, key, lambda: client.execute_command(command, key, *rest)),
            ("DEL", key, lambda: client.execute_command("DEL", key)),
            ("EVALSHA", key, lambda: _NOTHING.run(client, [key], [])),
            ("EVAL", key, lambda: client.execute_command(*_NOTHING.in_full([key], []))),
        ]
        if (to := self.publish) is not None:
            attempts.append(("PUBLISH", to, lambda: client.execute_command("PUBLISH", to, "")))
        if (channel := self.subscribe) is not None:
            attempts.append(("SUBSCRIBE", channel, lambda: try_subscribe(client, channel)))
        return attempts


def log_refusal(
    part: str, client: RedisClient, command: str, target: str, error: Exception, **more: str
) -> None:
    """Log what the server refuses to a part, and the permission that its user lacks.

    Args:
        part: the name of a part of the service.
        client: the client of the part.
        command: what was refused, if the error does not say it.
        target: the key or the channel.
        error: the reply of the server.
        more: further facts to log.
    """
    facts: dict[str, str | None] = {"advice": advice(error)}
    if reply_code(error) == "NOPERM":
        rule = _missing_rule(error, command, target)
        facts = {"missing": rule, "acl": f"user {_user(client)} ... {rule}"}
    log.error("redis.probe_refused", part=part, command=command, error=str(error), **facts, **more)


async def try_subscribe(client: RedisClient, channel: str, *, seconds: float = 1.0) -> None:
    """Subscribe to a channel, and wait up to so many seconds for the confirmation.

    Raises:
        RedisError: the server refuses it, or does not answer.
    """
    async with await open_pubsub(client) as pubsub:
        await pubsub.subscribe(channel)
        if await pubsub.get_message(timeout=seconds) is None:
            raise RedisConnectionError(f"a subscription was not confirmed within {seconds} s")


def _missing_rule(error: Exception, command: str, target: str) -> str:
    """Return the word that is missing in the user's line of the ACL file."""
    if about_command := _ABOUT_COMMAND.search(str(error)):
        return f"+{about_command['command'] or command.lower()}"
    return f"&{target}" if "channel" in str(error) else f"~{target.rpartition(':')[0]}:*"


def _user(client: RedisClient) -> str:
    pool: Any = getattr(client, "connection_pool", client)
    return str(pool.connection_kwargs.get("username") or "default")
