"""What the server at the other end is, and whether it suits what the service keeps there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import RedisCluster

from app.core.redis.clients import RedisClient


@dataclass(frozen=True, slots=True)
class ServerReport:
    """Read from `INFO`, which needs no special rights."""

    product: str
    version: str
    max_memory: int
    """In bytes; 0 means as much as there is."""
    eviction: str | None
    """The server's `maxmemory-policy`; None if it does not tell."""
    max_clients: int

    @property
    def evicts(self) -> bool:
        """Whether it drops what it was given, once memory is full."""
        return self.eviction not in (None, "noeviction") and self.max_memory > 0

    def refusals(
        self, *, keeps_locks: bool = False, keeps_sessions: bool = False, **_: bool
    ) -> list[str]:
        """Say what must not be in production: locks and sessions where they may be evicted.

        A lock that is gone is held twice. A session that is gone logs somebody out, and the list of
        a user's sessions may go first, so that some of them outlive `log_out_everywhere`.
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
        """What to change before it hurts.

        Args:
            connections: the most that all processes of the service open together.
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
                "the server does not tell its maxmemory-policy: see to it that it is noeviction, "
                "or locks and sessions may be evicted"
            )
        if keeps_events and self.evicts and str(self.eviction).startswith("allkeys"):
            found.append(
                f"maxmemory-policy {self.eviction} may evict events that subscribers have not "
                "read; with volatile-lru only what expires may go"
            )
        if connections > self.max_clients:
            found.append(
                f"the service may open {connections} connections (WEB_CONCURRENCY x the pool sizes)"
                f" and the server takes {self.max_clients} (maxclients)"
            )
        return found


async def report(client: RedisClient) -> ServerReport:
    """Ask the server what it is; of a cluster, a node that evicts if there is one.

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


class UnsuitableServer(Exception):
    """Production does not start on this server; the message says why."""
