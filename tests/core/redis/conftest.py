"""One server for the tests that leave it in peace."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster

from app.core.redis import ClientOptions, create_client
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE
from tests.support.clients import standalone_client

# What is not the subject of a test does not end because the machine has paused.
PATIENT: dict[str, Any] = dict.fromkeys(("timeout", "connect_timeout", "pool_timeout"), PATIENCE)

Connect = Callable[..., Redis]
ConnectCluster = Callable[..., RedisCluster]


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def connect(server: EmbeddedValkey) -> AsyncIterator[Connect]:
    """Makes clients, of the shared server unless told otherwise, and closes them."""
    async with AsyncExitStack() as stack:

        def connect(url: str = server.url, **options: Any) -> Redis:
            client = create_client(url, ClientOptions(name="test", **PATIENT | options))
            stack.push_async_callback(client.aclose)
            assert isinstance(client, Redis)
            return client

        yield connect


@pytest.fixture
async def connect_cluster() -> AsyncIterator[ConnectCluster]:
    """Makes clients of clusters, and closes them."""
    async with AsyncExitStack() as stack:

        def connect(url: str, **options: Any) -> RedisCluster:
            client = create_client(url, ClientOptions(name="test", **PATIENT | options))
            stack.push_async_callback(client.aclose)
            assert isinstance(client, RedisCluster)
            return client

        yield connect


@pytest.fixture
async def redis(server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A client of an empty server."""
    client = standalone_client(server.url, ClientOptions(name="test", **PATIENT))
    await client.flushall()
    yield client
    await client.aclose()
