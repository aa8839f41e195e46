"""The Redis servers of a service: what its clients add up to on each, and whether that suits it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import structlog
from redis.exceptions import NoPermissionError, RedisError

from app.core.redis.clients import RedisClient
from app.core.redis.report import UnsuitableServer, report
from app.core.redis.urls import RedisAddress, parse_url

log = structlog.get_logger(__name__)

Kept = Literal["cache", "locks", "sessions", "events"]
"""What a server may keep for a service: each asks something else of it."""

_UNKNOWN = (
    "this user may not ask what the server is (+info): whether it evicts what is kept there, and "
    "takes as many connections, is not known"
)


@dataclass(slots=True)
class _Server:
    address: RedisAddress
    client: RedisClient
    """The one that asks the server what it is."""
    connections: int = 0
    keeps: set[Kept] = field(default_factory=set)


class RedisServers:
    """Counts what the clients of one process may open, by server."""

    def __init__(self, *, production: bool, processes: int) -> None:
        """Begin with no server.

        Args:
            production: servers that do not suit what they keep stop the start; elsewhere, they are
                thrown away, and nobody need do anything about them.
            processes: how many of them run this service together.
        """
        self._production = production
        self._processes = processes
        self._servers: dict[object, _Server] = {}

    def add(self, url: str, client: RedisClient, connections: int, keeps: Iterable[Kept]) -> None:
        """Count a client that opens so many connections at most, to what the URL names."""
        address = parse_url(url)
        place = (address.topology, tuple(address.nodes), address.service)
        server = self._servers.setdefault(place, _Server(address, client))
        server.connections += connections * self._processes
        server.keeps.update(keeps)

    async def report(self) -> None:
        """Log what each server is and what does not suit it. One that is away is no obstacle.

        Raises:
            UnsuitableServer: production cannot do with it.
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
        keeps = {f"keeps_{what}": what in server.keeps for what in get_args(Kept)}
        if self._production and (refusals := found.refusals(**keeps)):
            raise UnsuitableServer("\n".join(f"{address}: {why}" for why in refusals))
        tell = log.warning if self._production else log.debug
        for warning in found.warnings(connections=server.connections, **keeps):
            tell("redis.unsuitable", why=warning)
