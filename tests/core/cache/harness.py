"""Caches as a service has them, one per simulated process, and what the tests look at."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from redis.asyncio import Redis

from app.core.cache import Cache, CacheUnavailable
from app.core.redis import ClientOptions, RedisClient, Script, create_client
from app.core.serializers import Serializer
from app.core.serializers.json import JsonSerializer

T = TypeVar("T")

SERVICE = "svc"

UNCHECKED_STORE = Script("""
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
""")
"""For controls: storing without asking whether one still may."""


@asynccontextmanager
async def open_cache(
    url: str,
    *,
    serializer: Serializer | None = None,
    read_timeout: float = 2,
    command_timeout: float = 2,
    pool_size: int = 32,
    pool_timeout: float = 2,
    **options: Any,
) -> AsyncIterator[Cache]:
    """A cache with a client of its own: what one process of the service has.

    A busy test machine may pause for longer than a service allows: tests of faults set the timeouts
    that they are about.
    """
    timeouts = ClientOptions(
        name="cache-test",
        timeout=command_timeout,
        connect_timeout=command_timeout,
        pool_size=pool_size,
        pool_timeout=pool_timeout,
    )
    client = create_client(url, timeouts)
    options = {
        "read_timeout": read_timeout,
        "serializer": serializer or JsonSerializer(),
        **options,
    }
    try:
        async with Cache(client, service=SERVICE, **options) as cache:
            yield cache
    finally:
        await client.aclose()


class Source(Generic[T]):
    """The truth behind a cache: a value, how often it was loaded, and a gate to hold loads at."""

    def __init__(self, value: T) -> None:
        self.value = value
        self.loads = 0
        self.finished = 0
        self.cancelled = 0
        self.error: Exception | None = None
        self.started = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Loads that begin now read their value and then wait."""
        self._open.clear()
        self.started.clear()

    def release(self) -> None:
        self._open.set()

    async def load(self) -> T:
        self.loads += 1
        value, error = self.value, self.error
        self.started.set()
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if error is not None:
            raise error
        self.finished += 1
        return value


async def until(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = 5.0) -> None:
    """Wait for something that happens in the background; fails if it does not."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.005)


async def lease_keys(client: RedisClient | Redis) -> list[bytes]:
    """The leases that exist, in the whole database."""
    assert isinstance(client, Redis)
    return [key async for key in client.scan_iter(match="*:lease")]


async def value_keys(client: RedisClient | Redis) -> list[bytes]:
    """The entries that exist."""
    assert isinstance(client, Redis)
    return [key async for key in client.scan_iter(match="*}")]


def breaker_is_open(cache: Cache) -> bool:
    return cache._breaker.is_open


def queued_invalidations(cache: Cache) -> int:
    return cache._recovery.queued


async def is_healthy(cache: Cache) -> bool:
    """What the health page says."""
    try:
        await cache.check()
    except CacheUnavailable:
        return False
    return True
