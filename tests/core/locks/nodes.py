"""The servers behind the locks under test: one for `lua`, five for `redlock`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import psutil
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.core.locks import Lease, Locks
from app.core.locks.node import Node
from app.core.locks.redlock import RedlockStore
from app.core.redis import ClientOptions, create_client
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.locks.clock import Clock

PREFIX = "test:lock"
SIZES = {"lua": 1, "redlock": 5}
NODE_TIMEOUT = 10.0
"""Seconds. A busy machine is not the fault under test; where that is a timeout, it is set there."""


class Nodes:
    """Real servers of one strategy, repaired between tests instead of started anew."""

    def __init__(self, strategy: str, servers: Sequence[EmbeddedValkey]) -> None:
        self.strategy = strategy
        self.servers = servers

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    @property
    def majority(self) -> Sequence[EmbeddedValkey]:
        return self.servers[: len(self.servers) // 2 + 1]

    def heal(self) -> None:
        """Every server runs, knows nothing and is nobody's replica."""
        self.thaw()
        for server in self.servers:
            if server.answers():
                with SyncRedis(port=server.port) as client:
                    client.config_set("maxmemory", 0)
                    client.flushall()
            else:
                server.restart()

    def thaw(self) -> None:
        """No server stands still; those that were killed stay dead."""
        for server in self.servers:
            with suppress(psutil.NoSuchProcess):
                server.thaw()

    async def on_all(self, *command: Any) -> list[Any]:
        """What each server answers, None from those that do not."""
        return [await ask(url, *command) for url in self.urls]

    async def holders(self, name: str) -> list[bytes]:
        """The tokens that the servers have for a lock."""
        tokens = await self.on_all("GET", lock_key(name))
        return [token for token in tokens if token is not None]

    async def lock_keys(self) -> int:
        """How many locks exist on all servers together."""
        found = await self.on_all("KEYS", f"{PREFIX}:{{0}}:held:*")
        return sum(len(keys or ()) for keys in found)

    async def none_left(self) -> None:
        """Wait until there is no lock on any server.

        Who releases one goes on as soon as a majority has let go.
        """
        await until(self._has_no_locks, what="the end of the last lock")

    async def _has_no_locks(self) -> bool:
        return not await self.lock_keys()

    async def held_by_a_majority(self, name: str) -> None:
        """Wait until a majority has a lock: whoever acquires it goes on at that moment."""

        async def enough() -> bool:
            return len(await self.holders(name)) >= len(self.majority)

        await until(enough, what=f"a majority for {name!r}")

    async def held_everywhere(self, name: str) -> None:
        """Wait until every server has a lock: the last votes may come after the grant."""

        async def by_all() -> bool:
            return len(await self.holders(name)) == len(self.servers)

        await until(by_all, what=f"the last votes for {name!r}")

    async def expire(self, name: str) -> None:
        """Let the servers' time for one lock be over, as if their clocks had moved on."""
        await self.on_all("PEXPIRE", lock_key(name), 1)

        async def gone() -> bool:
            return not await self.holders(name)

        await until(gone, what=f"the end of {name!r}")

    async def pass_time(self, clock: Clock, seconds: float, *, step: float = 1) -> None:
        """Move the clock on in steps, at each of which the servers answer what they are asked."""
        for _ in range(round(seconds / step)):
            await clock.advance(step)
            await self.on_all("PING")
            await clock.turn()

    async def end_quarantine(self) -> None:
        """Let every server believe that it has noticed an hour ago what it has noticed."""
        for url in self.urls:
            for marker in await ask(url, "KEYS", f"{PREFIX}:*:restart"):
                await ask(url, "HINCRBY", marker, "since", -3_600_000_000)

    async def listeners(self, name: str) -> list[int]:
        """How many processes each server would tell of a release."""
        channel = f"{PREFIX}:released:{name}"
        return [numbers[1] for numbers in await self.on_all("PUBSUB", "NUMSUB", channel)]

    async def heard_by(self, name: str, processes: int = 1) -> None:
        """Wait until that many processes wait for a release, wherever it happens."""

        async def listening() -> bool:
            return min(await self.listeners(name)) >= processes

        await until(listening, what=f"somebody who waits for {name!r}")

    async def evict(self, name: str) -> None:
        """Let every server forget one lock at once."""
        await self.on_all("DEL", lock_key(name))


async def ask(url: str, *command: Any) -> Any:
    """Send one command over a connection of its own; None when nobody answers."""
    async with plain_client(url) as client:
        try:
            return await client.execute_command(*command)
        except (RedisError, OSError):
            return None


def patient(seconds: float = NODE_TIMEOUT) -> ClientOptions:
    """Options of a client that waits for that long wherever it has to wait."""
    return ClientOptions(
        name="test", pool_timeout=seconds, timeout=seconds, connect_timeout=seconds
    )


@asynccontextmanager
async def plain_client(url: str, *, node_timeout: float = NODE_TIMEOUT) -> AsyncIterator[Redis]:
    client = create_client(url, patient(node_timeout))
    assert isinstance(client, Redis)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def open_locks(
    strategy: str,
    urls: Sequence[str],
    *,
    quarantine: float | None = 0,
    max_ttl: float = 600,
    max_hold: float = 600,
    node_timeout: float = NODE_TIMEOUT,
) -> AsyncIterator[Locks]:
    """Locks with clients of their own, as one process of a service has them.

    `node_timeout` is how long a server has for its answer, and a node of a quorum for its vote, in
    seconds: up to half of the ttl, where a service waits for a twentieth.
    """
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(plain_client(url, node_timeout=node_timeout))
            for url in urls
        ]
        store = (
            Node(clients[0], timeout=node_timeout)
            if strategy == "lua"
            else RedlockStore(
                clients, node_timeout=node_timeout, ttl_share=0.5, settle_timeout=node_timeout
            )
        )
        locks = Locks(
            store, prefix=PREFIX, quarantine=quarantine, max_ttl=max_ttl, max_hold=max_hold
        )
        yield await stack.enter_async_context(locks)


async def renewed(lease: Lease, *, after: float) -> None:
    """Wait until the lease has been renewed by something sent after that."""
    await until(lambda: lease.renewed > after, what="the renewal")


def lock_key(name: str) -> str:
    return f"{PREFIX}:{{0}}:held:{name}"


def fence_key(name: str) -> str:
    return f"{PREFIX}:{{0}}:fence:{name}"
