"""What a server is, and whether it does what the service needs.

A PING shows that a server answers, not that it does what a part asks of it: the user may lack a
permission, the server may be a replica, full, or without its replicas. So each part has a `Probe`,
which tries what it needs at the start and for the health page.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import RedisCluster
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


class UnsuitableServer(Exception):
    """Production does not start on this server; the message says why."""


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What `INFO` tells, which needs no special permission."""

    product: str
    version: str
    max_memory: int
    """In bytes; 0 means no limit."""
    eviction: str | None
    """The server's `maxmemory-policy`; None if it does not tell."""
    max_clients: int

    @property
    def evicts(self) -> bool:
        """Whether it deletes keys once its memory is full."""
        return self.eviction not in (None, "noeviction") and self.max_memory > 0

    def refusals(
        self, *, keeps_locks: bool = False, keeps_sessions: bool = False, **_: bool
    ) -> list[str]:
        """Return what production must not start with: locks or sessions that may be evicted.

        A lock that was evicted is held twice. A session that was evicted logs a user out, and the
        list of a user's sessions may go first, so that some outlive `log_out_everywhere`.
        """
        if not self.evicts:
            return []
        kept = {"locks": keeps_locks, "sessions": keeps_sessions}
        return [
            f"maxmemory-policy {self.eviction} may evict {what} when memory is full: keep them on "
            f"a server with noeviction ({what[:-1].upper()}_REDIS_URL)"
            for what, is_kept in kept.items()
            if is_kept
        ]

    def warnings(
        self,
        *,
        connections: int,
        keeps_cache: bool = True,
        keeps_locks: bool = False,
        keeps_sessions: bool = False,
        keeps_events: bool = False,
    ) -> list[str]:
        """Return what to change before it causes trouble.

        Args:
            connections: the maximum that all processes of the service open together.
            keeps_cache: the cache lives on this server.
            keeps_locks: locks live on this server.
            keeps_sessions: sessions live on this server.
            keeps_events: the events of this service live on this server.
        """
        found = []
        if keeps_cache and self.eviction == "noeviction" and self.max_memory:
            found.append(
                "maxmemory-policy is noeviction: once memory is full nothing is cached any more; "
                "use allkeys-lru or volatile-lru for a cache"
            )
        if keeps_cache and not self.max_memory:
            found.append("maxmemory is not set: a growing cache can take the whole machine")
        found += self.refusals(keeps_locks=keeps_locks, keeps_sessions=keeps_sessions)
        if self.eviction is None and (keeps_locks or keeps_sessions):
            found.append(
                "the server does not tell its maxmemory-policy: make sure that it is noeviction, "
                "or locks and sessions may be evicted"
            )
        if keeps_events and self.evicts and str(self.eviction).startswith("allkeys"):
            found.append(
                f"maxmemory-policy {self.eviction} may evict events before they are read; with "
                "volatile-lru only keys with a ttl are evicted"
            )
        if connections > self.max_clients:
            found.append(
                f"the service may open {connections} connections (WEB_CONCURRENCY x the pool sizes)"
                f" and the server takes {self.max_clients} (maxclients)"
            )
        return found


async def report(client: RedisClient) -> ServerReport:
    """Ask the server what it is; in a cluster, report a node that evicts if there is one.

    Raises:
        RedisError: it cannot be reached or does not answer.
    """
    reports = [_report(info) for info in await _infos(client)]
    return next((report for report in reports if report.evicts), reports[0])


def _report(info: Mapping[str, Any]) -> ServerReport:
    valkey = "valkey_version" in info
    eviction = info.get("maxmemory_policy")
    return ServerReport(
        product="Valkey" if valkey else "Redis",
        version=str(info.get("valkey_version" if valkey else "redis_version", "?")),
        max_memory=int(info.get("maxmemory", 0)),
        eviction=None if eviction is None else str(eviction),
        max_clients=int(info.get("maxclients", 10_000)),
    )


async def _infos(client: RedisClient) -> list[Mapping[str, Any]]:
    if not isinstance(client, RedisCluster):
        return [await client.info()]
    await client.initialize()
    return [await client.info(target_nodes=node) for node in client.get_primaries()]


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
