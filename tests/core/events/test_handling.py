"""Events that cannot be handled, now or ever, and handlers that are slow."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from app.core.events import Event, Events
from app.core.redis import Script
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.events.conftest import Counted, connected, publishing, subscribing
from tests.support.asking import ask
from tests.support.states import NOTHING_ANSWERED, WRITES_REFUSED, stateful
from tests.support.versions import VERSIONS

COUNT = Script("return redis.call('INCRBY', KEYS[1], 1)")

Handle = Callable[[Counted], Awaitable[None]]


@asynccontextmanager
async def handling(url: str, handle: Handle, **options: Any) -> AsyncIterator[Events]:
    async with connected(url) as client:
        events = Events(client, service="billing", **options)
        events.on("orders", Counted)(handle)
        async with events:
            yield events


class CountedMore(Event, name="counted"):
    """The same event, as a newer version of its publisher has it."""

    number: int
    unit: str = "piece"


class CountedBadly(Event, name="counted"):
    number: str


class Unheard(Event, name="unheard"):
    pass


def outcomes(outcome: str) -> float:
    labels = {"publisher": "orders", "outcome": outcome}
    return REGISTRY.get_sample_value("events_handled_total", labels) or 0


async def test_what_a_model_does_not_know_is_left_out(redis: Redis, server: EmbeddedValkey) -> None:
    received: list[Counted] = []
    async with publishing(server.url) as orders, subscribing(server.url, received.append):
        await orders.publish(CountedMore(number=1))
        await until(lambda: bool(received))
    assert received == [Counted(number=1)]


async def test_poison_is_counted_and_skipped(redis: Redis, server: EmbeddedValkey) -> None:
    received: list[int] = []
    invalid, unknown = outcomes("invalid"), outcomes("unknown")
    async with (
        publishing(server.url) as orders,
        subscribing(server.url, lambda event: received.append(event.number)),
    ):
        await orders.publish(CountedBadly(number="many"))
        await orders.publish(Unheard())
        await orders.publish(Counted(number=1))
        await until(lambda: bool(received))
    assert received == [1]
    assert outcomes("invalid") - invalid == 1
    assert outcomes("unknown") - unknown == 1


async def test_a_handler_that_always_fails_is_given_up_and_the_rest_goes_on(
    redis: Redis, server: EmbeddedValkey
) -> None:
    tried: list[int] = []
    failed = outcomes("failed")

    async def handle(event: Counted) -> None:
        tried.append(event.number)
        if event.number == 0:
            raise KeyError("a mistake")

    async with publishing(server.url) as orders, handling(server.url, handle):
        await orders.publish(Counted(number=0))
        await orders.publish(Counted(number=1))
        await until(lambda: 1 in tried)
    assert tried == [0, 0, 0, 1]
    assert outcomes("failed") - failed == 1


@pytest.mark.slow
async def test_an_outage_is_waited_for(redis: Redis, server: EmbeddedValkey) -> None:
    tried: list[int] = []

    async def handle(event: Counted) -> None:
        tried.append(event.number)
        if len(tried) < 5:
            raise ConnectionError("the database is away")

    async with (
        publishing(server.url) as orders,
        handling(server.url, handle, transient=lambda error: isinstance(error, ConnectionError)),
    ):
        await orders.publish(Counted(number=0))
        await orders.publish(Counted(number=1))
        await until(lambda: 1 in tried)
    assert tried == [0, 0, 0, 0, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("word", [*WRITES_REFUSED, "BUSY"])
async def test_a_redis_that_refuses_for_now_costs_no_event(
    redis: Redis, server: EmbeddedValkey, word: str, version: type[EmbeddedValkey]
) -> None:
    tried: list[int] = []
    with stateful(version) as counting:
        async with connected(counting.url) as counter:

            async def handle(event: Counted) -> None:
                tried.append(event.number)
                await COUNT.run(counter, [f"handled:{event.number}"], [])

            async with publishing(server.url) as orders, handling(server.url, handle):
                with (WRITES_REFUSED | NOTHING_ANSWERED)[word](counting):
                    for number in range(3):
                        await orders.publish(Counted(number=number))
                    # An event is given up after three attempts, if it is taken to be at fault.
                    await until(lambda: len(tried) > 3)
                    assert set(tried) == {0}
                await until(lambda: 2 in tried)
        assert ask(counting, "MGET", *(f"handled:{number}" for number in range(3))) == ["1"] * 3


async def test_a_handler_that_waits_for_what_is_cancelled_has_failed(
    redis: Redis, server: EmbeddedValkey
) -> None:
    """Nobody cancelled the subscriber: it goes on."""
    tried: list[int] = []

    async def handle(event: Counted) -> None:
        tried.append(event.number)
        if event.number == 0:
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled

    async with publishing(server.url) as orders, handling(server.url, handle):
        await orders.publish(Counted(number=0))
        await orders.publish(Counted(number=1))
        await until(lambda: 1 in tried)
    assert tried == [0, 0, 0, 1]


async def test_a_handler_that_hangs_is_ended(redis: Redis, server: EmbeddedValkey) -> None:
    tried: list[int] = []

    async def handle(event: Counted) -> None:
        tried.append(event.number)
        if event.number == 0:
            await asyncio.sleep(3600)

    async with (
        publishing(server.url) as orders,
        handling(server.url, handle, handler_timeout=0.05, transient=lambda error: True),
    ):
        await orders.publish(Counted(number=0))
        await orders.publish(Counted(number=1))
        await until(lambda: 1 in tried)
    assert tried == [0, 0, 0, 1]


async def test_a_slow_handler_does_not_fill_the_memory(
    redis: Redis, server: EmbeddedValkey
) -> None:
    """It is never more than a batch of 100 ahead, and nothing piles up in the server either."""
    received: list[int] = []
    events = 3_000

    async def handle(event: Counted) -> None:
        received.append(event.number)
        if len(received) < 250:
            await asyncio.sleep(0.002)

    async with publishing(server.url) as orders:
        async with handling(server.url, handle):
            pass  # from now on it is only away
        await asyncio.gather(*(orders.publish(Counted(number=n)) for n in range(events)))
        await redis.config_resetstat()
        async with handling(server.url, handle):
            await until(lambda: len(received) > 150)
            info = await redis.info("commandstats")
            handled = len(received)
            assert handled < events
            assert info["cmdstat_xrange"]["calls"] * 100 <= handled + 200
            clients = await redis.client_list()
            assert max(int(client["omem"]) for client in clients) < 100_000
            await until(lambda: len(received) == events)
    assert received == list(range(events))


async def test_the_end_lets_the_event_under_way_end(redis: Redis, server: EmbeddedValkey) -> None:
    begun: list[int] = []
    done: list[int] = []

    may_end = asyncio.Event()

    async def handle(event: Counted) -> None:
        begun.append(event.number)
        await may_end.wait()
        done.append(event.number)

    async with publishing(server.url) as orders:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(handling(server.url, handle))
            await asyncio.gather(*(orders.publish(Counted(number=n)) for n in range(3)))
            await until(lambda: begun == [0])
            ending = asyncio.create_task(stack.aclose())
            for _ in range(20):  # steps of the loop, in which the end begins
                await asyncio.sleep(0)
            may_end.set()
            await ending
        assert (begun, done) == ([0], [0])
        async with handling(server.url, handle):
            await until(lambda: len(done) == 3)
    assert done == [0, 1, 2]


async def test_subscribing_late_or_to_what_has_no_name_is_refused(
    redis: Redis, server: EmbeddedValkey
) -> None:
    class Nameless(Event):
        pass

    async with publishing(server.url) as orders:
        with pytest.raises(RuntimeError, match="before the service starts"):
            orders.on("orders", Counted)
    with pytest.raises(ValueError, match="Nameless needs a name"):
        orders.on("orders", Nameless)
