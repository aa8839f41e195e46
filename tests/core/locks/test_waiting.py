"""Waiting for a lock: woken by the release, and in the end also without being told."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.core.locks import Locks
from devservers.waiting import HANG, until
from tests.core.locks.clock import Clock
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import Nodes, open_locks, plain_client
from tests.support.faultproxy import FaultProxy

# Whoever is not told of a release looks again when the lock's ttl is over: ten minutes.
_TTL = 10 * HANG


async def hold_once(locks: Locks, name: str) -> None:
    """Wait for a lock, and fail long before its ttl is over if nobody tells of the release."""
    async with asyncio.timeout(HANG), locks.hold(name, timeout=2 * HANG):
        pass


async def test_a_release_wakes_the_next_one(nodes: Nodes, locks: Locks, others: Locks) -> None:
    for waiter in (locks, others):
        lease = await locks.try_acquire("name", ttl=_TTL)
        assert lease is not None
        waiting = asyncio.create_task(hold_once(waiter, "name"))
        if waiter is others:
            await nodes.heard_by("name")
        else:
            await asyncio.sleep(0)
        await lease.release()
        await waiting


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["once", "again and again"])
async def test_pubsub_connections_die(
    nodes: Nodes, locks: Locks, others: Locks, kill: str, record_fault: RecordFault
) -> None:
    lease = await locks.try_acquire("name", ttl=_TTL)
    assert lease is not None
    waiting = asyncio.create_task(hold_once(others, "name"))
    for _ in range(1 if kill == "once" else 4):
        await nodes.heard_by("name")
        await nodes.on_all("CLIENT", "KILL", "TYPE", "pubsub")
    released = time.monotonic()
    await lease.release()
    await waiting
    record_fault(
        f"pub/sub killed {kill} while waiting",
        nodes.strategy,
        runs=1,
        violations=0,
        control=f"woken after {(time.monotonic() - released) * 1000:.0f} ms, ttl {_TTL:.0f} s",
    )


@pytest.mark.slow
async def test_connections_that_die_while_more_is_asked_for(
    single: Nodes, record_fault: RecordFault
) -> None:
    """Whoever starts to wait then must not get in the way of making the connection again."""
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, found: errors.append(str(found)))
    [url] = single.urls
    names = [f"name-{number}" for number in range(200)]
    async with (
        open_locks("lua", [url]) as locks,
        open_locks("lua", [url]) as others,
        plain_client(url) as client,
    ):
        leases = [await others.try_acquire(name, ttl=_TTL) for name in names]
        waiting = []
        for number, name in enumerate(names):
            waiting.append(asyncio.create_task(hold_once(locks, name)))
            if number % 10 == 5:
                await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.002)
        channels = [f"test:lock:released:{name}" for name in names]

        async def all_listening() -> bool:
            return all(count == 1 for _, count in await client.pubsub_numsub(*channels))

        await until(all_listening, what="a subscription to every channel")
        for lease in leases:
            assert lease is not None
            await lease.release()
        await asyncio.gather(*waiting)
    record_fault(
        "pub/sub killed while more and more names are waited for",
        "lua",
        runs=len(names),
        violations=len(errors),
        control="-",
    )
    assert not errors


@pytest.mark.slow
async def test_pubsub_half_open(
    nodes: Nodes, locks: Locks, clock: Clock, record_fault: RecordFault
) -> None:
    """The connections stay open and nothing comes any more: PING finds out."""
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(FaultProxy(server.host, server.port))
            for server in nodes.servers
        ]
        lease = await locks.try_acquire("name", ttl=_TTL)
        assert lease is not None
        urls = [proxy.url for proxy in proxies]
        behind = await stack.enter_async_context(open_locks(nodes.strategy, urls, node_timeout=2))
        waiting = asyncio.create_task(hold_once(behind, "name"))
        await nodes.heard_by("name")
        for proxy in proxies:
            await proxy.black_hole()
        await lease.release()
        accepted = [proxy.accepted for proxy in proxies]

        async def connects_again() -> bool:
            await clock.advance(0.25)
            return all(now.accepted > then for now, then in zip(proxies, accepted, strict=True))

        silent_since = clock()
        with capture_logs() as lines:
            await until(connects_again, what="another connection")
        noticed_after = clock() - silent_since
        assert {line["event"] for line in lines} == {"locks.releases_lost"}
        for proxy in proxies:
            await proxy.heal()
        await waiting
    record_fault(
        "pub/sub half open while waiting",
        nodes.strategy,
        runs=1,
        violations=0,
        control=f"connected anew after {noticed_after:.1f} s, ttl {_TTL:.0f} s",
    )


async def test_the_first_come_is_the_first_served_within_a_process(locks: Locks) -> None:
    order: list[int] = []

    async def hold(number: int) -> None:
        async with locks.hold("name", timeout=HANG):
            order.append(number)

    async with locks.hold("name"):
        tasks = []
        for number in range(20):
            tasks.append(asyncio.create_task(hold(number)))
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == list(range(20))


@pytest.mark.slow
async def test_no_process_is_starved(nodes: Nodes) -> None:
    turns: Counter[int] = Counter()

    async def insist(process: int, locks: Locks) -> None:
        while turns.total() < 150:
            async with locks.hold("name", ttl=60, timeout=HANG):
                turns[process] += 1
                await asyncio.sleep(0.001)

    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(open_locks(nodes.strategy, nodes.urls))
            for _ in range(3)
        ]
        await asyncio.gather(
            *(insist(number, locks) for number, locks in enumerate(processes) for _ in range(3))
        )
    assert min(turns[number] for number in range(3)) > turns.total() / 15, turns


async def test_waiting_costs_nothing(single: Nodes, clock: Clock) -> None:
    """Fifty waiters in one process, for half a minute: a subscription, and one attempt by then."""
    url = single.urls[0]
    async with (
        open_locks("lua", [url]) as locks,
        open_locks("lua", [url]) as others,
        plain_client(url) as client,
    ):
        lease = await locks.try_acquire("name", ttl=_TTL)
        assert lease is not None
        await client.config_resetstat()
        waiting = [asyncio.create_task(hold_once(others, "name")) for _ in range(50)]
        await single.heard_by("name")
        await clock.turn()
        before = await evals(client)
        await single.pass_time(clock, 30)
        assert await evals(client) - before <= 1
        assert (await client.info("commandstats"))["cmdstat_subscribe"]["calls"] == 1
        await lease.release()
        await asyncio.gather(*waiting)


async def evals(client: Redis) -> int:
    calls = await client.info("commandstats")
    return sum(calls.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


@pytest.mark.slow
async def test_an_idle_process_unsubscribes(single: Nodes, clock: Clock) -> None:
    url = single.urls[0]
    async with open_locks("lua", [url]) as locks, open_locks("lua", [url]) as others:
        for _ in range(2):  # and subscribes anew
            async with locks.hold("name", ttl=_TTL):
                waiting = asyncio.create_task(hold_once(others, "name"))
                await single.heard_by("name")
            await waiting

            async def silent() -> bool:
                await clock.advance(1)
                return await single.listeners("name") == [0]

            await until(silent, what="the end of the subscription")
