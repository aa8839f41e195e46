"""Caches as a service has them, one per simulated process, and what the tests look at."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Generic, Self, TypeVar

from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy, CacheUnavailable
from app.core.cache.engine import Engine
from app.core.cache.keys import EntryKeys, canonical
from app.core.redis import ClientOptions, RedisClient, Script, create_client
from app.core.serializers import Serializer
from app.core.serializers.json import JsonSerializer
from app.core.testing import CacheClock
from devservers.waiting import until as until

T = TypeVar("T")

SERVICE = "svc"
PATIENT = 20.0
"""Seconds that a healthy server has to answer, on a machine that is busy with something else."""

UNCHECKED_STORE = Script("""
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
""")
"""For controls: storing without asking whether one still may."""

_CACHES: dict[Engine, Cache] = {}
"""Those that are open, by their engine."""


@asynccontextmanager
async def open_cache(
    url: str,
    *,
    serializer: Serializer | None = None,
    read_timeout: float = PATIENT,
    command_timeout: float = PATIENT,
    pool_size: int = 32,
    pool_timeout: float = PATIENT,
    **options: Any,
) -> AsyncIterator[Cache]:
    """A cache with a client of its own: what one process of the service has.

    Tests of faults set the timeouts that they are about.
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
            _CACHES[cache.engine] = cache
            try:
                yield cache
            finally:
                del _CACHES[cache.engine]
    finally:
        await client.aclose()


def cache_of(policy: CachePolicy[Any]) -> Cache:
    """The cache that a policy was declared with."""
    return _CACHES[policy._engine]


def keys_of(policy: CachePolicy[Any], key: Any, tags: Sequence[str] = ()) -> EntryKeys:
    """What the entry of a key is called in Redis."""
    return policy._keyspace.entry_keys(policy.name, canonical(key), tags)


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


class Clock(CacheClock):
    """The same, to be put in the place of `time` by a test of who asks for it."""

    def __call__(self) -> float:
        return self.time()


class Pauses:
    """Measures for how long this process stood still, beside what a test measures.

    A busy machine makes every wait longer by that: it is no wait of the product.
    """

    _STEP = 0.005

    def __init__(self) -> None:
        self._total = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._measure())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def time(self, work: Awaitable[Any]) -> float:
        """How long `work` takes, in seconds, without the pauses meanwhile."""
        began, paused = monotonic(), self._total
        await work
        took = monotonic() - began
        return took - (await self.total() - paused)

    async def total(self) -> float:
        """For how long it has stood still so far, in seconds."""
        await asyncio.sleep(2 * self._STEP)  # the last pause is known by then
        return self._total

    async def _measure(self) -> None:
        while True:
            began = monotonic()
            await asyncio.sleep(self._STEP)
            self._total += max(0.0, monotonic() - began - 2 * self._STEP)


class LoopClock:
    """The time by which an event loop's timers are due; `monotonic` goes on as ever."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._real = loop.time
        self._ahead = 0.0

    def __call__(self) -> float:
        return self._real() + self._ahead

    def advance(self, seconds: float) -> None:
        """All timers are nearer from now on, those of calls of Redis under way included."""
        self._ahead += seconds


def running_loads(cache: Cache) -> int:
    """How many loads and refreshes run, also those that nobody may join any more."""
    return len(cache.engine.loads)


def waiting_callers(cache: Cache) -> int:
    """How many callers wait for loads that others could join."""
    return sum(flight.waiters for flight in cache.engine.coordinator.flights._flights.values())


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
