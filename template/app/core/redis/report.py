"""What the server at the other end is, and whether it suits what the service keeps there."""

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
    eviction: str
    """The server's `maxmemory-policy`."""
    max_clients: int

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
        if keeps_locks and self.eviction != "noeviction" and self.max_memory:
            found.append(
                f"maxmemory-policy {self.eviction} may evict locks when memory is full; their "
                "fences keep writes safe, but give them a server of their own if it happens"
            )
        if keeps_sessions and self.eviction != "noeviction" and self.max_memory:
            found.append(
                f"maxmemory-policy {self.eviction} may evict sessions when memory is full: people "
                "are logged out, and sessions that should end everywhere may live on; give them a "
                "server of their own with noeviction"
            )
        if keeps_events and self.eviction.startswith("allkeys") and self.max_memory:
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
    """Ask the server what it is.

    Raises:
        RedisError: it cannot be reached or does not answer.
    """
    info = await _info(client)
    valkey = "valkey_version" in info
    return ServerReport(
        product="Valkey" if valkey else "Redis",
        version=str(info.get("valkey_version" if valkey else "redis_version", "?")),
        max_memory=int(info.get("maxmemory", 0)),
        eviction=str(info.get("maxmemory_policy", "noeviction")),
        max_clients=int(info.get("maxclients", 10_000)),
    )


async def _info(client: RedisClient) -> dict[str, Any]:
    if isinstance(client, RedisCluster):
        await client.initialize()
        info: dict[str, Any] = await client.info(target_nodes=client.get_random_node())
        return info
    return await client.info()
