"""One server for the tests that leave it in peace, one per test for those that do not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache
from app.core.redis import ClientOptions, create_client
from app.core.testing import CacheClock, cache_clock
from devservers.valkey import EmbeddedValkey
from tests.core.cache.harness import PATIENT, LoopClock, open_cache
from tests.support.wire import Wire, counted_writes

OpenCache = Callable[..., Awaitable[Cache]]


@pytest.fixture(scope="session")
def shared_server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def redis(shared_server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A plain client of an empty database, for looking and for making trouble."""
    options = ClientOptions(
        name="test", timeout=PATIENT, connect_timeout=PATIENT, pool_timeout=PATIENT
    )
    client = create_client(shared_server.url, options)
    assert isinstance(client, Redis)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def another(shared_server: EmbeddedValkey, redis: Redis) -> AsyncIterator[OpenCache]:
    """Opens caches, each of which stands for a process of the service."""
    async with AsyncExitStack() as stack:

        async def open_another(url: str = shared_server.url, **options: Any) -> Cache:
            return await stack.enter_async_context(open_cache(url, **options))

        yield open_another


@pytest.fixture
async def cache(another: OpenCache) -> Cache:
    return await another()


@pytest.fixture
def clock() -> Iterator[CacheClock]:
    """Lets entries grow old at once."""
    with cache_clock() as clock:
        yield clock


@pytest.fixture
async def loop_clock(monkeypatch: pytest.MonkeyPatch) -> LoopClock:
    """Lets what waits on a timer wait no longer."""
    loop = asyncio.get_running_loop()
    clock = LoopClock(loop)
    monkeypatch.setattr(loop, "time", clock)
    return clock


@pytest.fixture
def wire() -> Iterator[Wire]:
    with counted_writes() as wire:
        yield wire
