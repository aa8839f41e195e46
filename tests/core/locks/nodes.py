"""The servers behind the locks under test: one for `lua`, five for `redlock`."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import psutil
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.core.locks import Locks
from app.core.locks.lua import LuaStore
from app.core.locks.redlock import RedlockStore
from app.core.redis import ClientOptions, create_client
from devservers.valkey import EmbeddedValkey

PREFIX = "test:lock"
SIZES = {"lua": 1, "redlock": 5}


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

    async def none_left(self, *, within: float = 2.0) -> bool:
        """Whether no lock is left, at the latest `within` seconds from now.

        Who releases one goes on as soon as a majority has let go.
        """
        deadline = time.monotonic() + within
        while await self.lock_keys():
            if time.monotonic() > deadline:
                return False
            await settle(0.01)
        return True

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


@asynccontextmanager
async def plain_client(url: str) -> AsyncIterator[Redis]:
    client = create_client(url, ClientOptions(name="test"))
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
    max_ttl: float = 30,
    max_hold: float = 600,
    node_timeout: float = 0.2,
) -> AsyncIterator[Locks]:
    """Locks with clients of their own, as one process of a service has them.

    The nodes of a quorum get more time to vote than by default: a busy machine is not the fault
    under test.
    """
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(plain_client(url)) for url in urls]
        store = (
            LuaStore(clients[0])
            if strategy == "lua"
            else RedlockStore(clients, node_timeout=node_timeout)
        )
        locks = Locks(
            store, prefix=PREFIX, quarantine=quarantine, max_ttl=max_ttl, max_hold=max_hold
        )
        yield await stack.enter_async_context(locks)


def lock_key(name: str) -> str:
    return f"{PREFIX}:{{0}}:held:{name}"


def fence_key(name: str) -> str:
    return f"{PREFIX}:{{0}}:fence:{name}"


async def settle(seconds: float = 0.05) -> None:
    """Let what was started in the background reach the servers."""
    await asyncio.sleep(seconds)
