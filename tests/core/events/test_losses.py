"""Servers that forget confirmed events: who lost some is told, and nobody else.

Each fault is a server whose state can be marked, and brought back to that mark.

The failovers once began before the replica had asked to be one. A primary takes another replication
id when its first replica comes; events after that belong to a new life, and the number of those
that a later failover forgets is then unknown. On a busy machine, that came after event 1 or 2.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import time_ns
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.core.events import Events, EventsLost
from app.core.events.stream import NONE, EventId, Stream
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.events.conftest import Counted, connected, following, is_well, publishing
from tests.support.asking import ask
from tests.support.faultproxy import FaultProxy
from tests.support.versions import VERSIONS

PATIENCE = 2.0
STREAM = "orders:events:{orders}:stream"


@dataclass
class Fault:
    url: str
    mark: Callable[[], Awaitable[None]]
    strike: Callable[[], Awaitable[None]]
    """Forget what came after the mark."""


Version = Callable[..., EmbeddedValkey]
Kind = Callable[[Version], AbstractAsyncContextManager[Fault]]


def standalone(
    strike: Callable[[EmbeddedValkey], object],
    *,
    mark: Callable[[EmbeddedValkey], object] = lambda server: None,
    **configuration: Any,
) -> Kind:
    @asynccontextmanager
    async def kind(version: Version) -> AsyncIterator[Fault]:
        with version(**configuration) as server:

            async def mark_server() -> None:
                mark(server)

            async def strike_server() -> None:
                strike(server)

            yield Fault(server.url, mark_server, strike_server)

    return kind


def restart(server: EmbeddedValkey) -> None:
    server.kill()
    server.restart()


older_snapshot = standalone(restart, mark=lambda server: ask(server, "SAVE"))
without_a_volume = standalone(restart)
flushed = standalone(lambda server: ask(server, "FLUSHALL"))
faithful_restart = standalone(restart, appendonly="yes", appendfsync="always")


@asynccontextmanager
async def failover(kind: Version, *, is_cut: bool = True) -> AsyncIterator[Fault]:
    with (
        kind(repl_diskless_sync_delay=0) as primary,
        kind(replicaof=(primary.host, primary.port)) as replica,
    ):

        def offset(server: EmbeddedValkey) -> Any:
            [(role, *rest)] = [ask(server, "ROLE")]
            return rest[0] if role == "master" else rest[3]

        async def in_step() -> None:
            await until(lambda: offset(replica) == offset(primary))

        async def mark() -> None:
            await in_step()
            if is_cut:
                ask(replica, "REPLICAOF", "NO", "ONE")

        async def strike() -> None:
            if not is_cut:
                await in_step()
                ask(replica, "REPLICAOF", "NO", "ONE")
            primary.kill()
            await proxy.forward_to(replica.host, replica.port)

        await in_step()
        async with FaultProxy(primary.host, primary.port) as proxy:
            yield Fault(proxy.url, mark, strike)


@asynccontextmanager
async def faithful_failover(kind: Version) -> AsyncIterator[Fault]:
    async with failover(kind, is_cut=False) as fault:
        yield fault


async def publish(events: Events, *numbers: int) -> None:
    """Also waits until the server has them."""
    for number in numbers:
        await events.publish(Counted(number=number))
    await until(lambda: is_well(events))


async def follow_until(url: str, last: int, **options: Any) -> list[object]:
    """What a subscriber is handed that was away, up to a number."""
    seen: list[object] = []
    async with following(url, seen, patience=PATIENCE, **options):
        await until(lambda: seen[-1:] == [last], what=f"event {last}")
    return seen


@pytest.mark.parametrize("kind", [older_snapshot, failover], ids=["snapshot", "failover"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("every_process", [False, True])
async def test_who_lost_events_is_told_and_nobody_else(
    kind: Kind, version: type[EmbeddedValkey], every_process: bool
) -> None:
    """One subscriber has read 1 and 2, the other one all that was published."""
    seen: list[object] = []
    early: list[object] = []
    async with (
        kind(version) as fault,
        publishing(fault.url, patience=PATIENCE) as orders,
        following(fault.url, seen, patience=PATIENCE, service="stock", every_process=every_process),
    ):
        async with following(fault.url, early, patience=PATIENCE):
            await publish(orders, 1, 2)
            await until(lambda: early == [1, 2])
        await until(lambda: seen == [1, 2])
        await fault.mark()
        await publish(orders, 3, 4, 5, 6, 7)
        await until(lambda: seen == [1, 2, 3, 4, 5, 6, 7])
        await fault.strike()
        await publish(orders, 8, 9, 10)
        late = await follow_until(fault.url, 10)
        await until(lambda: seen[-1:] == [10])
    assert late == [EventsLost(count=5), 8, 9, 10]
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("kind", [faithful_restart, faithful_failover], ids=["restart", "failover"])
async def test_nobody_is_told_after_a_fault_that_forgets_nothing(kind: Kind) -> None:
    seen: list[object] = []
    async with (
        kind(EmbeddedValkey) as fault,
        publishing(fault.url, patience=PATIENCE) as orders,
        following(fault.url, seen, patience=PATIENCE, service="stock"),
    ):
        async with following(fault.url, [], patience=PATIENCE):
            pass  # from now on it is only away
        await fault.mark()
        await publish(orders, 1, 2, 3)
        await fault.strike()
        await publish(orders, 4, 5)
        assert await follow_until(fault.url, 5) == [1, 2, 3, 4, 5]
        await until(lambda: seen[-1:] == [5])
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("control", [False, True])
async def test_a_publisher_that_knows_no_better_publishes_first(
    control: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives out numbers again. The control is the same where publishers remember nothing."""
    if control:
        append = Stream.append

        async def append_without_memory(*args: Any, known: EventId, **options: Any) -> EventId:
            return await append(*args, known=NONE, **options)

        monkeypatch.setattr(Stream, "append", append_without_memory)
    seen: list[object] = []
    async with (
        older_snapshot(EmbeddedValkey) as fault,
        publishing(fault.url, patience=PATIENCE) as one,
        publishing(fault.url, patience=PATIENCE) as other,
        following(fault.url, seen, patience=PATIENCE, service="stock"),
    ):
        async with following(fault.url, [], patience=PATIENCE):
            pass
        await publish(other, 1)
        await fault.mark()
        await publish(one, 2, 3, 4, 5, 6)
        await until(lambda: seen == [1, 2, 3, 4, 5, 6])
        await fault.strike()
        await publish(other, 7, 8)
        await publish(one, 9)
        late = await follow_until(fault.url, 9)
        await until(lambda: seen[-1:] == [9])
    assert seen == list(range(1, 10))
    assert late == [1, 7, 8, 9] if control else [1, 7, 8, EventsLost(count=5), 9]


async def test_what_was_announced_to_a_subscriber_is_lost_if_its_publisher_is_gone_as_well() -> (
    None
):
    """It is still busy with 1 when the others are published, and forgotten."""
    seen: list[object] = []
    handled = asyncio.Event()
    async with older_snapshot(EmbeddedValkey) as fault, connected(fault.url, PATIENCE) as client:
        billing = Events(client, service="billing")

        @billing.on("orders", Counted)
        async def take(event: Counted) -> None:
            seen.append(event.number)
            await handled.wait()

        @billing.on("orders", EventsLost)
        async def clear(event: EventsLost) -> None:
            seen.append(event)

        async with billing:
            async with publishing(fault.url, patience=PATIENCE) as orders:
                await publish(orders, 1)
                await until(lambda: seen == [1])
                await fault.mark()
                await publish(orders, 2, 3, 4)
                # What was announced arrives in order, and after this.
                await until(lambda: billing_has_heard(billing, 4))
            await fault.strike()
            async with publishing(fault.url, patience=PATIENCE) as orders:
                await publish(orders, 5)
                handled.set()
                await until(lambda: seen[-1:] == [5])
    assert seen == [1, EventsLost(count=3), 5]


def billing_has_heard(events: Events, number: int) -> bool:
    [subscription] = events._subscriptions.values()
    return subscription._announced.number >= number


@pytest.mark.parametrize("kind", [without_a_volume, flushed], ids=["no volume", "flushed"])
async def test_a_subscriber_whose_offset_is_lost_is_not_new(kind: Kind) -> None:
    """One that lives knows its offset, and has lost nothing."""
    seen: list[object] = []
    async with (
        kind(EmbeddedValkey) as fault,
        publishing(fault.url, patience=PATIENCE) as orders,
        following(fault.url, seen, patience=PATIENCE, service="stock"),
    ):
        early: list[object] = []
        async with following(fault.url, early, patience=PATIENCE):
            await publish(orders, 1, 2, 3, 4)
            await until(lambda: early == [1, 2, 3, 4])
        await until(lambda: seen == [1, 2, 3, 4])
        await fault.strike()
        await publish(orders, 5, 6, 7)
        assert await follow_until(fault.url, 7) == [EventsLost(count=None), 5, 6, 7]
        # From now on its offset is known again.
        await publish(orders, 8)
        assert await follow_until(fault.url, 8) == [8]
        await until(lambda: seen[-1:] == [8])
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_lost_offset_is_noticed_however_late_the_publisher_is_that_remembers() -> None:
    async with (
        without_a_volume(EmbeddedValkey) as fault,
        publishing(fault.url, patience=PATIENCE) as one,
        publishing(fault.url, patience=PATIENCE) as other,
    ):
        early: list[object] = []
        async with following(fault.url, early, patience=PATIENCE):
            await publish(one, 1, 2, 3, 4)
            await until(lambda: early == [1, 2, 3, 4])
        await fault.strike()
        await publish(other, 5)
        await publish(one, 6, 7)
        assert await follow_until(fault.url, 7) == [5, EventsLost(count=None), 6, 7]


async def test_a_process_knows_where_its_service_was_when_the_server_does_not() -> None:
    """Both processes of the subscriber live: the owner of the stream goes on."""
    seen: list[object] = []
    async with (
        without_a_volume(EmbeddedValkey) as fault,
        publishing(fault.url, patience=PATIENCE) as orders,
        following(fault.url, seen, patience=PATIENCE, ownership_ttl=1.0),
        following(fault.url, seen, patience=PATIENCE, ownership_ttl=1.0),
    ):
        await publish(orders, 1, 2, 3, 4)
        await until(lambda: seen == [1, 2, 3, 4])
        await fault.strike()
        await publish(orders, 5, 6, 7)
        await until(lambda: seen[-1:] == [7])
    assert seen == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("published", [True, False])
async def test_a_process_that_starts_while_redis_is_away_knows_whether_it_came_too_late(
    redis: Redis, server: EmbeddedValkey, published: bool
) -> None:
    """With `every_process` it begins with what comes after its start, if it can."""
    seen: list[object] = []
    async with (
        FaultProxy(server.host, server.port) as proxy,
        publishing(server.url) as orders,
    ):
        await publish(orders, 1)
        await proxy.refuse()
        async with following(proxy.url, seen, every_process=True) as billing:
            if published:
                await publish(orders, 2)
            await proxy.heal()
            await until(lambda: is_well(billing))
            await publish(orders, 3)
            await until(lambda: seen[-1:] == [3])
    assert seen == ([EventsLost(count=None), 3] if published else [3])


async def test_a_stream_that_is_older_than_the_offset_is_read_all_the_same(
    redis: Redis, server: EmbeddedValkey
) -> None:
    """Everything is forgotten, by the publisher too, and the clock was set back meanwhile."""
    seen: list[object] = []
    ahead = time_ns() // 1000 + 3_600_000_000
    async with following(server.url, seen):
        first = {"name": "counted", "data": '{"number": 1}', "at": 0, "after": "0-0"}
        await redis.xadd(STREAM, first, id=f"{ahead}-1")  # type: ignore[arg-type]
        await until(lambda: seen == [1])
        await redis.delete(STREAM)
        async with publishing(server.url) as orders:
            await publish(orders, 2, 3)
            await until(lambda: seen[-1:] == [3])
    assert seen == [1, EventsLost(count=None), 2, 3]


@asynccontextmanager
async def saying_by_each(what: str, *, processes: int) -> AsyncIterator[None]:
    """Once each, but for those that end before they have come to it."""
    with capture_logs() as logs:
        yield
    assert 1 <= [line["event"] for line in logs].count(what) <= processes


@pytest.mark.parametrize("version", [EmbeddedValkey, *VERSIONS[1:2]])
async def test_where_info_is_not_allowed_who_lost_events_is_told_too(
    version: type[EmbeddedValkey],
) -> None:
    seen: list[object] = []
    rights = ("default", "on", "nopass", "~*", "&*", "+@all", "-info")
    async with (
        saying_by_each("events.no_history", processes=4),
        older_snapshot(partial(version, user=rights)) as fault,
        publishing(fault.url, patience=PATIENCE) as orders,
        following(fault.url, seen, patience=PATIENCE, service="stock"),
    ):
        async with following(fault.url, [], patience=PATIENCE):
            pass
        await publish(orders, 1, 2)
        await until(lambda: seen == [1, 2])
        await fault.mark()
        await publish(orders, 3, 4, 5)
        await until(lambda: seen == [1, 2, 3, 4, 5])
        await fault.strike()
        await publish(orders, 6, 7)
        late = await follow_until(fault.url, 7)
        await until(lambda: seen[-1:] == [7])
    assert late == [1, 2, EventsLost(count=None), 6, 7]
    assert seen == [1, 2, 3, 4, 5, 6, 7]
