"""Publishing while Redis is away, and when only its replies are."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from app.core.events import Event, Events, EventsLost, EventsUnavailable
from app.core.redis import RedisClient
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.events.conftest import Counted, connected, following, is_well, publishing
from tests.support.asking import ask
from tests.support.faultproxy import FaultProxy

STREAM = "orders:events:{orders}:stream"
TIMEOUT = 0.3
AT_ONCE = 1_000


@pytest.fixture
async def proxy(server: EmbeddedValkey) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.host, server.port) as proxy:
        yield proxy


async def published(redis: Redis) -> list[int]:
    """What is in the stream."""
    entries: Any = await redis.xrange(STREAM)
    counted = [fields for _, fields in entries if fields[b"name"] == b"counted"]
    return [Counted.model_validate_json(fields[b"data"]).number for fields in counted]


async def test_what_redis_has_is_confirmed(redis: Redis, server: EmbeddedValkey) -> None:
    async with publishing(server.url) as orders:
        await orders.publish(Counted(number=1), strict=True)
        assert await published(redis) == [1]


async def test_during_an_outage_events_wait_and_keep_their_order(
    redis: Redis, proxy: FaultProxy
) -> None:
    async with publishing(proxy.url, patience=TIMEOUT) as orders:
        await proxy.refuse()
        await orders.publish(Counted(number=0))
        for number in range(1, 500):
            await orders.publish(Counted(number=number))
        with pytest.raises(EventsUnavailable, match="500 events wait"):
            await orders.check()
        await proxy.heal()
        await orders.publish(Counted(number=500))
        await until(lambda: is_well(orders))
    assert await published(redis) == list(range(501))


async def test_nobody_is_kept_waiting_by_a_server_that_says_nothing(
    redis: Redis, proxy: FaultProxy
) -> None:
    async with publishing(proxy.url, patience=TIMEOUT) as orders:
        await proxy.black_hole()
        async with asyncio.timeout(HANG):
            await orders.publish(Counted(number=1))  # finds out
        started = monotonic()
        for number in range(AT_ONCE):
            await orders.publish(Counted(number=number))
        assert monotonic() - started < AT_ONCE * TIMEOUT  # or each of them waited
        await proxy.heal()


async def test_strict_says_that_it_is_not_known(redis: Redis, proxy: FaultProxy) -> None:
    async with publishing(proxy.url, patience=TIMEOUT) as orders:
        await proxy.refuse()
        with pytest.raises(EventsUnavailable):
            await orders.publish(Counted(number=1), strict=True)
        await proxy.heal()
    assert await published(redis) == [1]  # and is sent all the same


@pytest.mark.parametrize("control", [False, True])
async def test_a_lost_reply_does_not_double_an_event(
    redis: Redis, proxy: FaultProxy, control: bool
) -> None:
    """The control tries again as one would by hand."""
    by_hand: dict[Any, Any] = {
        "number": 2,
        "name": "counted",
        "data": Counted(number=1).model_dump_json(),
    }
    async with (
        publishing(proxy.url, patience=TIMEOUT) as orders,
        connected(proxy.url, TIMEOUT) as client,
    ):
        await orders.publish(Counted(number=0))
        await until(lambda: is_connected(client))
        await proxy.drop_replies()
        if control:
            with pytest.raises(RedisError):
                await client.xadd(STREAM, by_hand)
        else:
            await orders.publish(Counted(number=1))
        await proxy.heal()
        if control:
            await until(lambda: is_connected(client))
            await redis.xadd(STREAM, by_hand)
        await orders.publish(Counted(number=2))
        await until(lambda: is_well(orders))
    assert (await published(redis)).count(1) == (2 if control else 1)


async def is_connected(client: RedisClient) -> bool:
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False


async def test_the_memory_for_waiting_events_is_bounded(redis: Redis, proxy: FaultProxy) -> None:
    async with publishing(proxy.url, patience=TIMEOUT, buffer_limit=3) as orders:
        await proxy.refuse()
        for number in range(5):
            await orders.publish(Counted(number=number))
        with pytest.raises(EventsUnavailable, match="3 events wait"):
            await orders.publish(Counted(number=9), strict=True)
        await proxy.heal()
    assert await published(redis) == [0, 1, 2]


@pytest.mark.parametrize(
    ("limit", "published_ones"), [(10_000, 15_004), (250, 400), (3, 5), (3, 500)]
)
async def test_the_number_of_those_that_found_no_room_takes_their_place(
    redis: Redis, proxy: FaultProxy, limit: int, published_ones: int
) -> None:
    """In the stream, and with one line in the log."""
    async with publishing(proxy.url, patience=TIMEOUT, buffer_limit=limit) as orders:
        await until(lambda: is_well(orders))
        await proxy.black_hole()
        with capture_logs() as logs:
            for number in range(published_ones):
                await orders.publish(Counted(number=number))
        await proxy.heal()
        await until(lambda: REGISTRY.get_sample_value("events_waiting") == 0)
        await orders.publish(Counted(number=published_ones))
        await until(lambda: REGISTRY.get_sample_value("events_waiting") == 0)
    entries: Any = await redis.xrange(STREAM)
    lost = EventsLost(count=published_ones - limit)
    told = [fields for _, fields in entries if fields[b"name"] == lost.event_name.encode()]
    assert [fields[b"data"] for fields in told] == [lost.model_dump_json().encode()]
    assert entries[limit][1] == told[0]
    assert await published(redis) == [*range(limit), published_ones]
    assert [line["event"] for line in logs].count("events.dropped") == 1
    assert len(logs) < 5


async def test_subscribers_are_told_that_number_though_nothing_is_published_afterwards(
    redis: Redis, server: EmbeddedValkey, proxy: FaultProxy
) -> None:
    seen: list[object] = []
    async with (
        following(server.url, seen),
        publishing(proxy.url, patience=TIMEOUT, buffer_limit=2) as orders,
    ):
        await proxy.refuse()
        for number in range(6):
            await orders.publish(Counted(number=number))
        await proxy.heal()
        await until(lambda: len(seen) >= 3)
    assert seen == [0, 1, EventsLost(count=4)]


@pytest.mark.parametrize("command", ["xadd", "evalsha", "publish", "set"])
async def test_a_right_that_is_missing_is_known_before_the_first_event(command: str) -> None:
    """It is logged once, and is no reason to refuse changes."""
    rights = ("default", "on", "nopass", "~*", "&*", "+@all", f"-{command}")
    with capture_logs() as logs, EmbeddedValkey(user=rights) as server:
        async with publishing(server.url) as orders:
            await until(lambda: is_refused(orders, command))
            await orders.publish(Counted(number=1))
            await until(lambda: [line["event"] for line in logs].count("events.sending_lost") == 1)
            ask(server, "ACL", "SETUSER", "default", f"+{command}")
            await orders.publish(Counted(number=2), strict=True)
            assert ask(server, "XLEN", STREAM) == 2
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        *("redis.refused", "events.sending_lost")
    ]


async def is_refused(events: Events, command: str) -> bool:
    try:
        await events.check()
    except EventsUnavailable as error:
        return command in str(error).lower()
    return False


async def test_the_end_sends_what_waits(redis: Redis, server: EmbeddedValkey) -> None:
    async with publishing(server.url) as orders:
        sending = [asyncio.create_task(orders.publish(Counted(number=n))) for n in range(1_000)]
        await asyncio.sleep(0)
    await asyncio.gather(*sending)
    assert await published(redis) == list(range(1_000))


@pytest.mark.slow
async def test_the_end_is_not_held_up_by_a_server_that_is_away(
    redis: Redis, proxy: FaultProxy
) -> None:
    async with asyncio.timeout(HANG), publishing(proxy.url, patience=TIMEOUT) as orders:
        await proxy.refuse()
        await orders.publish(Counted(number=1))
        waiting = asyncio.create_task(orders.publish(Counted(number=2), strict=True))
        await asyncio.sleep(0)
    with pytest.raises(EventsUnavailable):
        await waiting
    await proxy.heal()


class Nameless(Event):
    pass


@pytest.mark.parametrize("event", [Nameless(), EventsLost(count=1)])
async def test_what_is_no_event_of_its_own_is_refused(
    redis: Redis, server: EmbeddedValkey, event: Event
) -> None:
    async with publishing(server.url) as orders:
        with pytest.raises(ValueError, match="not to be published"):
            await orders.publish(event)


async def test_before_the_start_and_after_the_end_it_is_a_mistake(
    redis: Redis, server: EmbeddedValkey
) -> None:
    async with publishing(server.url) as orders:
        pass
    with pytest.raises(RuntimeError, match="not started, or has ended"):
        await orders.publish(Counted(number=1))
