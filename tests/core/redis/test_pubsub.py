"""A pub/sub connection that says when it is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

import pytest
from redis.asyncio import Redis

from app.core.redis import PubSubConnection
from devservers.valkey import EmbeddedValkey
from devservers.waiting import PATIENCE, until
from tests.core.redis.conftest import Connect
from tests.support.faultproxy import FaultProxy

DEADLINE = 1.0


@dataclass
class Owner:
    messages: list[bytes] = field(default_factory=list)
    subscriptions: int = 0
    losses: int = 0

    def heard(self, channel: str, message: bytes | None) -> None:
        assert channel == "news"
        if message is None:
            self.subscriptions += 1
        else:
            self.messages.append(message)

    def lost(self) -> None:
        self.losses += 1


@pytest.fixture
async def proxy(server: EmbeddedValkey) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.host, server.port) as proxy:
        yield proxy


@asynccontextmanager
async def linked(connect: Connect, url: str, deadline: float = PATIENCE) -> AsyncIterator[Owner]:
    owner = Owner()
    link = PubSubConnection(
        connect(url), ["news"], on_message=owner.heard, on_disconnect=owner.lost, deadline=deadline
    )
    task = asyncio.create_task(link.run())
    try:
        await until(lambda: owner.subscriptions > 0)
        yield owner
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_hears(redis: Redis, connect: Connect, server: EmbeddedValkey) -> None:
    async with linked(connect, server.url) as owner:
        for number in range(3):
            await redis.publish("news", str(number))
        await until(lambda: len(owner.messages) == 3)
        assert (owner.subscriptions, owner.losses) == (1, 0)
    assert owner.messages == [b"0", b"1", b"2"]


@pytest.mark.slow
async def test_silence_of_the_server_is_no_loss(
    redis: Redis, connect: Connect, server: EmbeddedValkey
) -> None:
    async def pings() -> int:
        return int((await redis.info("commandstats")).get("cmdstat_ping", {}).get("calls", 0))

    async with linked(connect, server.url, deadline=6) as owner:
        before = await pings()

        async def silent_for_longer_than_the_deadline() -> bool:
            return await pings() > before + 3  # every third of it

        await until(silent_for_longer_than_the_deadline)
        assert (owner.subscriptions, owner.losses) == (1, 0)


@pytest.mark.slow
async def test_a_half_open_connection_is_noticed_within_the_deadline(
    redis: Redis, connect: Connect, proxy: FaultProxy
) -> None:
    async with linked(connect, proxy.url, deadline=DEADLINE) as owner:
        await proxy.black_hole()
        before = owner.losses
        started = monotonic()
        await until(lambda: owner.losses > before)
        assert monotonic() - started > DEADLINE / 2
        await proxy.heal()
        await until(lambda: owner.subscriptions > 1)
        await redis.publish("news", "again")
        await until(lambda: b"again" in owner.messages)


async def test_a_broken_connection_is_made_again(
    redis: Redis, connect: Connect, server: EmbeddedValkey
) -> None:
    async with linked(connect, server.url) as owner:
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: owner.subscriptions > 1)
        assert owner.losses == 1
