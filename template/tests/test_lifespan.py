"""What the start opens is closed at the end, and also when the start fails half-way."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache
from app.core.service import Service
from app.main import create_service
from app.settings import Settings
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.conftest import Serve


async def connections(valkey: EmbeddedValkey) -> list[str]:
    """The names of those that the service has open."""
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        clients: list[dict[str, Any]] = await redis.client_list()
    return [client["name"] for client in clients if ":" in client["name"]]


async def until_none_is_left(valkey: EmbeddedValkey) -> None:
    async def none_is_left() -> bool:
        return not await connections(valkey)

    await until(none_is_left, what="the end of all connections")


async def test_nothing_stays_open_at_the_end(serve: Serve, valkey: EmbeddedValkey) -> None:
    async with serve(redis_url=valkey.url) as client:
        assert (await client.get("/health/ready")).status_code == 200
        assert await connections(valkey)
    await until_none_is_left(valkey)


async def test_nothing_stays_open_when_the_start_fails(
    serve: Serve, valkey: EmbeddedValkey
) -> None:
    opened: list[str] = []

    @asynccontextmanager
    async def failing(redis: Redis) -> AsyncIterator[None]:
        await redis.ping()
        opened.extend(await connections(valkey))
        raise RuntimeError("on purpose")
        yield

    def install_failing(service: Service) -> None:
        redis = service.redis("commands")
        assert isinstance(redis, Redis)
        service.open(failing(redis), last=True)

    with pytest.raises(RuntimeError, match="on purpose"):
        async with serve(install_failing, redis_url=valkey.url):
            pass
    assert opened
    await until_none_is_left(valkey)


async def test_a_worker_has_all_parts_without_http(
    settings: Settings, valkey: EmbeddedValkey
) -> None:
    changed = settings.model_copy(update={"redis_url": type(settings.redis_url)(valkey.url)})
    async with create_service(changed).running() as service:
        numbers = service.find(Cache).policy("number", int, ttl=60)

        async def load() -> int:
            return 1

        async def never() -> int:
            raise AssertionError("it is cached")

        assert await numbers.get_or_load("one", load) == 1
        assert await numbers.get_or_load("one", never) == 1
    await until_none_is_left(valkey)
