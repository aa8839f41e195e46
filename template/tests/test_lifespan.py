"""What the start opens is closed at the end, and also when the start fails half-way."""

from typing import Any

import pytest
from redis.asyncio import Redis

from app import main
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
    serve: Serve, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    async def fail(redis: Redis) -> None:
        await redis.ping()
        opened.extend(await connections(valkey))
        raise RuntimeError("on purpose")

    monkeypatch.setattr(main, "report", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        async with serve(redis_url=valkey.url):
            pass
    assert opened
    await until_none_is_left(valkey)
