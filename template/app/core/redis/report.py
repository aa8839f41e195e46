"""What the servers are, and whether they suit what the service keeps there."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from redis.asyncio import RedisCluster
from redis.exceptions import NoPermissionError, RedisError

from app.core.redis.clients import RedisClient
from app.core.redis.urls import RedisAddress, parse_url

log = structlog.get_logger(__name__)

Kept = Literal["cache", "locks", "sessions", "events"]
"""What a server may keep for a service. Each needs something different of it."""

_UNKNOWN = (
    "the user may not run INFO (+info): nobody knows whether the server evicts what is kept there, "
    "and how many connections it takes"
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

    def refusals(self, keeps: Collection[Kept]) -> list[str]:
        """Return what production must not start with: locks or sessions that may be evicted.

        A lock that was evicted is held twice. A session that was evicted logs a user out, and the
        list of a user's sessions may go first, so that some outlive `log_out_everywhere`.
        """
        if not self.evicts:
            return []
        return [
            f"maxmemory-policy {self.eviction} may evict {what} when memory is full: keep them on "
            f"a server with noeviction ({what[:-1].upper()}_REDIS_URL)"
            for what in ("locks", "sessions")
            if what in keeps
        ]

    def warnings(self, keeps: Collection[Kept], *, connections: int) -> list[str]:
        """Return what to change before it causes trouble.

        Args:
            keeps: what the service keeps on this server.
            connections: the maximum that all processes of the service open together.
        """
        found = []
        if "cache" in keeps and self.eviction == "noeviction" and self.max_memory:
            found.append(
                "maxmemory-policy is noeviction: once memory is full nothing is cached any more; "
                "use allkeys-lru or volatile-lru for a cache"
            )
        if "cache" in keeps and not self.max_memory:
            found.append("maxmemory is not set: a growing cache can take the whole machine")
        found += self.refusals(keeps)
        if self.eviction is None and not {"locks", "sessions"}.isdisjoint(keeps):
            found.append(
                "the server does not tell its maxmemory-policy: make sure that it is noeviction, "
                "or locks and sessions may be evicted"
            )
        if "events" in keeps and self.evicts and str(self.eviction).startswith("allkeys"):
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


@dataclass(slots=True)
class _Server:
    address: RedisAddress
    client: RedisClient
    """The client that reads the report."""
    connections: int = 0
    keeps: set[Kept] = field(default_factory=set)


class RedisServers:
    """Counts the connections that the clients of a service may open, by server."""

    def __init__(self, *, production: bool, processes: int) -> None:
        """Begin with no server.

        Args:
            production: an unsuitable server stops the start. Elsewhere servers are thrown away
                after use, and what does not suit is logged at debug level.
            processes: how many processes run this service together.
        """
        self._production = production
        self._processes = processes
        self._servers: dict[object, _Server] = {}

    def add(self, url: str, client: RedisClient, connections: int, keeps: Iterable[Kept]) -> None:
        """Count a client with its maximum of connections, to the servers that the URL names."""
        address = parse_url(url)
        place = (address.topology, tuple(address.nodes), address.service)
        server = self._servers.setdefault(place, _Server(address, client))
        server.connections += connections * self._processes
        server.keeps.update(keeps)

    async def report(self) -> None:
        """Log what each server is, and what does not suit. A server that is away is no obstacle.

        Raises:
            UnsuitableServer: it must not be used in production.
        """
        for server in self._servers.values():
            await self._report(server)

    async def _report(self, server: _Server) -> None:
        address = str(server.address)
        try:
            found = await report(server.client)
        except NoPermissionError as error:
            log.warning("redis.unknown", address=address, why=_UNKNOWN, error=str(error))
            return
        except (RedisError, OSError) as error:
            log.warning("redis.unavailable", address=address, error=str(error))
            return
        log.info(
            "redis.ready",
            address=address,
            server=f"{found.product} {found.version}",
            connections_at_most=server.connections,
        )
        if self._production and (refusals := found.refusals(server.keeps)):
            raise UnsuitableServer("\n".join(f"{address}: {why}" for why in refusals))
        tell = log.warning if self._production else log.debug
        for warning in found.warnings(server.keeps, connections=server.connections):
            tell("redis.unsuitable", why=warning)
