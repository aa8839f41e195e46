"""A pub/sub connection hears its channels, is replaced when it is lost, and tells its owner."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from structlog.testing import capture_logs

from app.core.redis import OutageLog, PubSubConnection
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, PATIENCE, until
from tests.core.redis.conftest import Connect
from tests.support.faultproxy import FaultProxy

TIMEOUT = 1.0


@dataclass
class Owner:
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    subscriptions: list[str] = field(default_factory=list)
    disconnects: int = 0

    def on_message(self, channel: str, message: bytes) -> None:
        self.messages.append((channel, message))

    def on_subscribe(self, channel: str) -> None:
        self.subscriptions.append(channel)

    def on_disconnect(self) -> None:
        self.disconnects += 1


@pytest.fixture
async def proxy(server: EmbeddedValkey) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.host, server.port) as proxy:
        yield proxy


@asynccontextmanager
async def listening(
    connect: Connect, url: str, **options: Any
) -> AsyncIterator[tuple[PubSubConnection, Owner]]:
    """A connection that hears `news`."""
    owner = Owner()
    connection = PubSubConnection(
        connect(url),
        on_message=owner.on_message,
        on_subscribe=owner.on_subscribe,
        on_disconnect=owner.on_disconnect,
        outage_log=OutageLog("test"),
        **{"timeout": PATIENCE, **options},
    )
    connection.subscribe("news")
    try:
        await until(lambda: owner.subscriptions)
        yield connection, owner
    finally:
        await connection.close()


async def test_it_keeps_nothing_of_the_request_that_subscribed_first(
    redis: Redis, connect: Connect, server: EmbeddedValkey
) -> None:
    request: ContextVar[str | None] = ContextVar("request", default=None)
    request.set("first")
    heard: list[str | None] = []
    connection = PubSubConnection(
        connect(server.url),
        on_message=lambda channel, message: None,
        on_subscribe=lambda channel: heard.append(request.get()),
    )
    connection.subscribe("news")
    await until(lambda: heard)
    await connection.close()
    assert heard == [None]


async def test_it_hears_what_is_published(
    redis: Redis, connect: Connect, server: EmbeddedValkey
) -> None:
    async with listening(connect, server.url) as (connection, owner):
        assert connection.hears("news")
        for number in range(3):
            await redis.publish("news", str(number))
        await until(lambda: len(owner.messages) == 3)
        assert (owner.subscriptions, owner.disconnects) == (["news"], 0)
    assert owner.messages == [("news", b"0"), ("news", b"1"), ("news", b"2")]


async def test_another_channel_is_heard_at_once(
    redis: Redis, connect: Connect, server: EmbeddedValkey
) -> None:
    async with listening(connect, server.url, timeout=1000) as (connection, owner):
        connection.subscribe("news", "weather")
        await until(lambda: connection.hears("weather"))  # while it is waiting for messages
        await redis.publish("weather", "rain")
        await until(lambda: owner.messages == [("weather", b"rain")])
        assert owner.subscriptions == ["news", "weather"]


@pytest.mark.slow
async def test_silence_of_the_server_is_no_loss(
    redis: Redis, connect: Connect, server: EmbeddedValkey
) -> None:
    async def pings() -> int:
        return int((await redis.info("commandstats")).get("cmdstat_ping", {}).get("calls", 0))

    async with listening(connect, server.url, timeout=6) as (_, owner):
        before = await pings()

        async def silent_for_longer_than_the_timeout() -> bool:
            return await pings() > before + 3  # every third of it

        await until(silent_for_longer_than_the_timeout)
        assert (owner.subscriptions, owner.disconnects) == (["news"], 0)


@pytest.mark.slow
async def test_a_half_open_connection_is_replaced(
    redis: Redis, connect: Connect, proxy: FaultProxy
) -> None:
    async with listening(connect, proxy.url, timeout=TIMEOUT) as (connection, owner):
        await proxy.black_hole()
        before = owner.disconnects
        started = monotonic()
        await until(lambda: owner.disconnects > before)
        assert monotonic() - started > TIMEOUT / 2
        assert not connection.hears("news")
        await proxy.heal()
        await until(lambda: len(owner.subscriptions) > 1)
        await redis.publish("news", "again")
        await until(lambda: ("news", b"again") in owner.messages)


async def test_a_broken_connection_is_replaced_with_all_its_channels(
    redis: Redis, connect: Connect, server: EmbeddedValkey
) -> None:
    async with listening(connect, server.url) as (connection, owner):
        connection.subscribe("weather")
        await until(lambda: connection.hears("weather"))
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: owner.disconnects == 1)
        await until(lambda: connection.hears("news") and connection.hears("weather"))
        assert sorted(owner.subscriptions[2:]) == ["news", "weather"]


async def test_a_mistake_of_the_owner_does_not_end_it(
    redis: Redis, connect: Connect, server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(connect, server.url) as (connection, owner):
        with capture_logs() as lines:
            monkeypatch.setattr(connection, "_on_message", None)
            await redis.publish("news", "cannot be told")
            await until(lambda: len(owner.subscriptions) > 1)
        assert [line["event"] for line in lines] == ["redis.pubsub_failed"]


async def test_a_channel_that_nobody_wants_is_dropped_and_the_last_one_disconnects(
    redis: Redis, connect: Connect, server: EmbeddedValkey
) -> None:
    async def channels() -> list[bytes | str]:
        return await redis.pubsub_channels()

    async with listening(connect, server.url, timeout=0.3, idle_timeout=0.1) as (connection, owner):
        connection.subscribe("weather")
        await until(lambda: connection.hears("weather"))
        connection.unsubscribe("news")

        async def has_dropped_news() -> bool:
            return await channels() == [b"weather"]

        await until(has_dropped_news)
        assert (connection.hears("news"), owner.disconnects) == (False, 0)
        connection.unsubscribe("weather")
        await until(lambda: owner.disconnects)
        assert await channels() == []
        connection.subscribe("news")
        await until(lambda: connection.hears("news"))


async def test_a_channel_that_is_wanted_again_in_time_is_kept(
    redis: Redis, connect: Connect, server: EmbeddedValkey
) -> None:
    async with listening(connect, server.url, timeout=0.3, idle_timeout=0.3) as (connection, owner):
        connection.unsubscribe("news")
        connection.subscribe("news")
        connection.subscribe("control")
        await until(lambda: connection.hears("control"))
        connection.unsubscribe("control")
        await until(lambda: not connection.hears("control"))
        assert connection.hears("news")
        assert owner.subscriptions == ["news", "control"]


async def test_it_closes_for_good(redis: Redis, connect: Connect, server: EmbeddedValkey) -> None:
    async with listening(connect, server.url) as (connection, owner):
        await connection.close()
        connection.subscribe("news")
        assert await redis.pubsub_channels() == []
        assert (connection.hears("news"), owner.disconnects) == (False, 1)


async def test_it_closes_though_its_cancellation_was_taken_for_something_else(
    connect: Connect, server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_message, waits = PubSub.get_message, asyncio.Event()

    async def swallowing(self: PubSub, **options: Any) -> Any:
        waits.set()
        try:
            return await get_message(self, **options)
        except asyncio.CancelledError:
            return None

    async with listening(connect, server.url) as (connection, _):
        monkeypatch.setattr(PubSub, "get_message", swallowing)
        connection.subscribe("weather")  # so that it reads anew
        await until(waits.is_set)
        async with asyncio.timeout(HANG):
            await connection.close()
