"""Two services, `orders` that publishes and `billing` that subscribes, on one server."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.events import Event, Events, EventsLost, EventsUnavailable
from app.core.redis import ClientOptions, RedisClient, create_client
from devservers.valkey import EmbeddedValkey

PATIENCE = 30.0
"""Seconds that a reply may take where nothing is broken, on a machine that is busy."""


class Counted(Event, name="counted"):
    number: int


@asynccontextmanager
async def connected(url: str, patience: float = PATIENCE) -> AsyncIterator[RedisClient]:
    options = ClientOptions(
        name="test", timeout=patience, connect_timeout=patience, pool_timeout=patience
    )
    client = create_client(url, options)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def publishing(
    url: str, *, patience: float = PATIENCE, **options: Any
) -> AsyncIterator[Events]:
    """The publisher: `orders`."""
    async with (
        connected(url, patience) as client,
        Events(client, service="orders", **options) as events,
    ):
        yield events


async def is_well(events: Events) -> bool:
    """What the health page says."""
    try:
        await events.check()
    except EventsUnavailable:
        return False
    return True


@asynccontextmanager
async def subscribing(
    url: str,
    handle: Callable[[Counted], None],
    *,
    patience: float = PATIENCE,
    every_process: bool = False,
    **options: Any,
) -> AsyncIterator[Events]:
    """A process of the subscriber: `billing`."""
    async with connected(url, patience) as client:
        events = Events(client, service="billing", **options)

        @events.on("orders", Counted, every_process=every_process)
        async def take(event: Counted) -> None:
            handle(event)

        async with events:
            yield events


@asynccontextmanager
async def following(
    url: str,
    seen: list[object],
    *,
    patience: float = PATIENCE,
    service: str = "billing",
    every_process: bool = False,
    **options: Any,
) -> AsyncIterator[Events]:
    """A process of a subscriber that keeps the numbers it is handed, and each `EventsLost`."""
    async with connected(url, patience) as client:
        events = Events(client, service=service, **options)

        @events.on("orders", Counted, every_process=every_process)
        async def take(event: Counted) -> None:
            seen.append(event.number)

        @events.on("orders", EventsLost, every_process=every_process)
        async def clear(event: EventsLost) -> None:
            seen.append(event)

        async with events:
            yield events


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def redis(server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A client of an empty server."""
    async with connected(server.url) as client:
        assert isinstance(client, Redis)
        await client.flushall()
        yield client
