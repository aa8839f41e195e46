"""Waiting for a lock: woken by the release, and in the end also without being told."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from app.core.locks import Locks
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import Nodes, open_locks, plain_client
from tests.support.faultproxy import FaultProxy


async def wait_for(locks: Locks, name: str, *, patience: float) -> float:
    """Hold once; when that was, by `time.monotonic()`."""
    async with locks.hold(name, timeout=patience):
        return time.monotonic()


async def test_a_release_wakes_the_next_one(nodes: Nodes, locks: Locks, others: Locks) -> None:
    for waiter in (locks, others):
        lease = await locks.try_acquire("name", ttl=20)
        assert lease is not None
        waiting = asyncio.create_task(wait_for(waiter, "name", patience=10))
        await asyncio.sleep(0.1)
        released = time.monotonic()
        await lease.release()
        assert await waiting - released < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["once", "again and again"])
async def test_pubsub_connections_die(
    nodes: Nodes, locks: Locks, others: Locks, kill: str, record_fault: RecordFault
) -> None:
    lease = await locks.try_acquire("name", ttl=20)
    assert lease is not None
    waiting = asyncio.create_task(wait_for(others, "name", patience=10))
    for _ in range(1 if kill == "once" else 4):
        await asyncio.sleep(0.15)
        await nodes.on_all("CLIENT", "KILL", "TYPE", "pubsub")
    released = time.monotonic()
    await lease.release()
    took = await waiting - released
    record_fault(
        f"pub/sub killed {kill} while waiting",
        nodes.strategy,
        runs=1,
        violations=int(took >= 1),
        control=f"woken after {took * 1000:.0f} ms, ttl 20 s",
    )
    assert took < 1


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
        leases = [await others.try_acquire(name, ttl=20) for name in names]
        waiting = []
        for number, name in enumerate(names):
            waiting.append(asyncio.create_task(wait_for(locks, name, patience=15)))
            if number % 10 == 5:
                await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.002)
        await asyncio.sleep(1)
        listening = await client.pubsub_numsub(*(f"test:lock:released:{name}" for name in names))
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
    assert [count for _, count in listening] == [1] * len(names)
    assert not errors


@pytest.mark.slow
async def test_pubsub_half_open(nodes: Nodes, locks: Locks, record_fault: RecordFault) -> None:
    """The connections stay open and nothing comes any more: PING finds out."""
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(FaultProxy(server.host, server.port))
            for server in nodes.servers
        ]
        lease = await locks.try_acquire("name", ttl=20)
        assert lease is not None
        behind = await stack.enter_async_context(
            open_locks(nodes.strategy, [proxy.url for proxy in proxies])
        )
        waiting = asyncio.create_task(wait_for(behind, "name", patience=10))
        await asyncio.sleep(0.2)
        for proxy in proxies:
            await proxy.black_hole()
        await lease.release()
        await asyncio.sleep(2.2)
        for proxy in proxies:
            await proxy.heal()
        healed = time.monotonic()
        took = await waiting - healed
    record_fault(
        "pub/sub half open while waiting",
        nodes.strategy,
        runs=1,
        violations=int(took >= 1),
        control=f"went on {took * 1000:.0f} ms after the network did, ttl 20 s",
    )
    assert took < 1


async def test_the_first_come_is_the_first_served_within_a_process(locks: Locks) -> None:
    order: list[int] = []

    async def hold(number: int) -> None:
        async with locks.hold("name", timeout=10):
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
    until = time.monotonic() + 1.2

    async def insist(process: int, locks: Locks) -> None:
        while time.monotonic() < until:
            async with locks.hold("name", timeout=10):
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
    assert min(turns.values()) > sum(turns.values()) / 15, turns


async def test_waiting_costs_nothing(single: Nodes) -> None:
    """Fifty waiters in one process, for half a second: two attempts and a subscription."""
    url = single.urls[0]
    async with (
        open_locks("lua", [url]) as locks,
        open_locks("lua", [url]) as others,
        plain_client(url) as client,
    ):
        lease = await locks.try_acquire("name", ttl=20)
        assert lease is not None
        await client.config_resetstat()
        waiting = [asyncio.create_task(wait_for(others, "name", patience=10)) for _ in range(50)]
        await asyncio.sleep(0.5)
        calls = await client.info("commandstats")
        asked = sum(
            calls.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval")
        )
        subscribed = calls["cmdstat_subscribe"]["calls"]
        await lease.release()
        await asyncio.gather(*waiting)
    assert asked <= 3
    assert subscribed == 1


@pytest.mark.slow
async def test_an_idle_process_unsubscribes(single: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.locks.subscriber._IDLE_TICKS", 0)
    url = single.urls[0]
    async with (
        open_locks("lua", [url]) as locks,
        open_locks("lua", [url]) as others,
        plain_client(url) as client,
    ):
        async with locks.hold("name"):
            waiting = asyncio.create_task(wait_for(others, "name", patience=5))
            await asyncio.sleep(0.1)
            assert await client.pubsub_numsub("test:lock:released:name") == [
                (b"test:lock:released:name", 1)
            ]
        await waiting
        await asyncio.sleep(2.2)
        assert await client.pubsub_numsub("test:lock:released:name") == [
            (b"test:lock:released:name", 0)
        ]
        async with locks.hold("name"):  # and subscribes anew
            waiting = asyncio.create_task(wait_for(others, "name", patience=5))
            await asyncio.sleep(0.3)
            released = time.monotonic()
        assert await waiting - released < 0.15
