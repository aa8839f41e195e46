"""Nothing is lost, nothing comes twice, and the order is kept, whatever happens to connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.core.events import Events, EventsLost
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.events.conftest import Counted, connected, is_well, publishing, subscribing

MANY = 10_000
DISCONNECTS = 5


async def publish(events: Events, numbers: range) -> None:
    """In order; those of one chunk are sent together."""
    for start in range(numbers.start, numbers.stop, 250):
        chunk = range(start, min(start + 250, numbers.stop))
        await asyncio.gather(*(events.publish(Counted(number=number)) for number in chunk))


async def has_failed(events: Events) -> bool:
    return not await is_well(events)


async def disconnect_everybody(redis: Redis) -> None:
    for kind in ("normal", "pubsub"):
        await redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


@pytest.fixture
async def received_by_plain_pubsub(
    redis: Redis, server: EmbeddedValkey
) -> AsyncIterator[list[int]]:
    """The control: what somebody hears who only subscribes."""
    received: list[int] = []

    async def listen() -> None:
        async with connected(server.url) as client:
            while True:
                link = client.pubsub()
                with suppress(RedisError, OSError):
                    await link.subscribe("plain")
                    while True:
                        message = await link.get_message(
                            ignore_subscribe_messages=True, timeout=1.0
                        )
                        if message is not None:
                            received.append(int(message["data"]))
                await link.aclose()

    listener = asyncio.create_task(listen())
    await until(lambda: has_listener(redis))
    yield received
    listener.cancel()


async def has_listener(redis: Redis) -> bool:
    [(_, listeners)] = await redis.pubsub_numsub("plain")
    return bool(listeners)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_many_events_through_disconnects_a_frozen_server_and_a_restart(
    redis: Redis, server: EmbeddedValkey, received_by_plain_pubsub: list[int]
) -> None:
    received: list[int] = []

    def take(event: Counted) -> None:
        received.append(event.number)

    async def plainly(numbers: range) -> None:
        """The control gets the same numbers, at the same time."""
        pipeline = redis.pipeline(transaction=False)
        for number in numbers:
            pipeline.publish("plain", number)
        await pipeline.execute()

    part = MANY // (DISCONNECTS + 2)
    parts = [range(i * part, (i + 1) * part) for i in range(DISCONNECTS + 1)]
    parts.append(range(parts[-1].stop, MANY))
    async with publishing(server.url, patience=0.5) as orders:
        async with subscribing(server.url, take, patience=0.5):
            for numbers in parts[:DISCONNECTS]:
                sending = asyncio.create_task(publish(orders, numbers))
                await until(lambda first=numbers.start: len(received) > first)  # type: ignore[misc]
                await disconnect_everybody(redis)
                await plainly(numbers)
                await sending
            server.freeze()
            sending = asyncio.create_task(publish(orders, parts[-2]))
            await until(lambda: has_failed(orders))
            server.thaw()
            await sending
        async with subscribing(server.url, take, patience=0.5):  # it was restarted
            await publish(orders, parts[-1])
            await until(lambda: len(received) >= MANY, seconds=5 * HANG)
    assert received == list(range(MANY))
    assert len(received_by_plain_pubsub) < parts[DISCONNECTS - 1].stop


async def test_what_is_published_while_a_subscriber_is_away_waits_for_it(
    redis: Redis, server: EmbeddedValkey
) -> None:
    received: list[int] = []
    async with publishing(server.url) as orders:
        async with subscribing(server.url, lambda event: received.append(event.number)):
            await publish(orders, range(3))
            await until(lambda: len(received) == 3)
        await publish(orders, range(3, 6))
        async with subscribing(server.url, lambda event: received.append(event.number)):
            await publish(orders, range(6, 9))
            await until(lambda: len(received) >= 9)
    assert received == list(range(9))


async def test_a_new_subscriber_begins_with_what_comes(
    redis: Redis, server: EmbeddedValkey
) -> None:
    received: list[int] = []
    async with publishing(server.url) as orders:
        await publish(orders, range(3))
        async with subscribing(server.url, lambda event: received.append(event.number)):
            await publish(orders, range(3, 6))
            await until(lambda: len(received) >= 3)
    assert received == [3, 4, 5]


@pytest.mark.parametrize("every_process", [False, True])
async def test_one_process_gets_an_event_or_every_one(
    redis: Redis, server: EmbeddedValkey, every_process: bool
) -> None:
    mine: list[int] = []
    theirs: list[int] = []
    one = subscribing(
        server.url, lambda event: mine.append(event.number), every_process=every_process
    )
    other = subscribing(
        server.url, lambda event: theirs.append(event.number), every_process=every_process
    )
    async with publishing(server.url) as orders, one, other:
        await publish(orders, range(100))
        # The second half comes after whatever came twice of the first.
        await until(lambda: 99 in mine + theirs)
        await publish(orders, range(100, 200))
        last = [[199], [199]] if every_process else [[], [199]]
        await until(lambda: sorted([mine[-1:], theirs[-1:]]) == last)
    if every_process:
        assert mine == theirs == list(range(200))
    else:
        assert sorted([mine, theirs]) == [[], list(range(200))]


async def test_events_that_were_trimmed_are_reported(redis: Redis, server: EmbeddedValkey) -> None:
    """The stream keeps 100, and as many more as fit into its last piece."""
    received: list[int] = []
    lost: list[int | None] = []
    async with publishing(server.url, max_length=100) as orders:
        async with subscribing(server.url, lambda event: None):
            pass
        await publish(orders, range(2_000))
        async with connected(server.url) as client:
            billing = Events(client, service="billing")

            @billing.on("orders", Counted)
            async def take(event: Counted) -> None:
                received.append(event.number)

            @billing.on("orders", EventsLost)
            async def clear(event: EventsLost) -> None:
                lost.append(event.count)

            async with billing:
                await until(lambda: received[-1:] == [1_999])
    assert lost == [2_000 - len(received)]
    assert 100 <= len(received) < 400
