"""An outage is told when it begins and when it is over, by whatever tries again meanwhile."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from structlog.testing import capture_logs

from app.core.locks.node import Node
from app.core.locks.subscriber import Subscriber
from app.core.redis import OutageLog, PubSubConnection, RedisClient
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.redis.conftest import Connect
from tests.support.faultproxy import FaultProxy


def test_failures_are_counted_and_logged_once() -> None:
    now = 100.0
    outage = OutageLog("part.link", monotonic=lambda: now, channel="news")
    with capture_logs() as lines:
        outage.back()
        for _ in range(40):
            outage.lost(ConnectionError("refused"))
            now += 0.5
        outage.back()
        outage.back()
        outage.lost(ConnectionError("again"))
    assert [line["event"] for line in lines] == [
        "part.link_lost",
        "part.link_back",
        "part.link_lost",
    ]
    assert "refused" in lines[0]["error"]
    assert (lines[1]["seconds"], lines[1]["failures"], lines[1]["channel"]) == (20.0, 40, "news")


class Listening:
    """Something that listens, and how often it has found that it cannot."""

    def __init__(self) -> None:
        self.subscriptions = 0

    def wants(self, channel: str) -> bool:
        return True

    def heard_release(self, source: int, channel: str, message: bytes) -> None: ...

    def heard_subscription(self, channel: str) -> None:
        self.subscriptions += 1


@asynccontextmanager
async def pubsub(client: RedisClient) -> AsyncIterator[Listening]:
    listening = Listening()
    connection = PubSubConnection(
        client,
        on_message=lambda channel, message: None,
        on_subscribe=listening.heard_subscription,
    )
    connection.subscribe("news")
    yield listening
    await connection.close()


@asynccontextmanager
async def lock_subscriber(client: RedisClient) -> AsyncIterator[Listening]:
    listening = Listening()
    [source] = Node(client, timeout=1).listeners()
    subscriber = Subscriber(source, 0, listening)
    subscriber.want("released")
    yield listening
    await subscriber.close()


Listener = Callable[[RedisClient], AbstractAsyncContextManager[Listening]]


@pytest.mark.parametrize(
    ("listener", "name"), [(pubsub, "redis.pubsub"), (lock_subscriber, "locks.wakeups")]
)
async def test_a_connection_that_listens(
    server: EmbeddedValkey, connect: Connect, listener: Listener, name: str
) -> None:
    async with FaultProxy(server.host, server.port) as proxy:
        client = connect(proxy.url, timeout=1, connect_timeout=1)
        with capture_logs() as lines:
            async with listener(client) as listening:
                await until(lambda: listening.subscriptions == 1)
                before = proxy.accepted
                await proxy.cut_replies(0)
                await until(lambda: proxy.accepted > before + 3)
                await proxy.heal()
                await until(lambda: listening.subscriptions == 2)
    assert [line["event"] for line in lines] == [f"{name}_lost", f"{name}_back"]
    assert lines[1]["failures"] > 1
