"""More locks at once than the process has connections: they wait, and nobody is taken for away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from app.core.locks import Locks, LockTimeout, LockUnavailable
from app.core.locks.node import Node
from app.core.locks.redlock import RedlockStore
from devservers.waiting import HANG, until
from tests.core.locks.clock import Clock
from tests.core.locks.nodes import NODE_TIMEOUT, PREFIX, Nodes, ask, open_locks, patient
from tests.core.locks.values import metric
from tests.support.clients import standalone_client

_TTL = 10 * HANG
_CONNECTIONS = 8


@asynccontextmanager
async def few_connections(nodes: Nodes) -> AsyncIterator[Locks]:
    """Locks whose pools refuse who has to wait for a connection, if only for a moment."""
    options = replace(patient(), pool_size=_CONNECTIONS, pool_timeout=0.001)
    async with AsyncExitStack() as stack:
        clients = [standalone_client(url, options) for url in nodes.urls]
        for client in clients:
            stack.push_async_callback(client.aclose)
        store = (
            Node(clients[0], timeout=NODE_TIMEOUT)
            if nodes.strategy == "lua"
            else RedlockStore(
                clients, node_timeout=NODE_TIMEOUT, ttl_share=0.5, settle_timeout=NODE_TIMEOUT
            )
        )
        locks = Locks(store, prefix=PREFIX, quarantine=0, max_ttl=_TTL)
        yield await stack.enter_async_context(locks)


async def hold(locks: Locks, name: str) -> None:
    async with locks.hold(name, ttl=_TTL, timeout=2 * HANG):
        pass


async def scripts_run(nodes: Nodes) -> int:
    """How many scripts the busiest server was sent."""
    stats = await nodes.on_all("INFO", "commandstats")
    scripts = ("cmdstat_eval", "cmdstat_evalsha")
    return max(sum(int(found.get(s, {"calls": 0})["calls"]) for s in scripts) for found in stats)


def pool_timeouts(nodes: Nodes) -> float:
    labels = ["redis"] if nodes.strategy == "lua" else [str(n) for n in range(len(nodes.servers))]
    return sum(metric("lock_node_errors_total", node=n, error="PoolTimeout") for n in labels)


@pytest.mark.slow
async def test_many_names_at_once(nodes: Nodes) -> None:
    """All are granted, by one command each, and one more for the release of each."""
    names = [f"name-{number}" for number in range(3000 if nodes.strategy == "lua" else 300)]
    async with few_connections(nodes) as locks:
        await locks.check()
        await nodes.on_all("CONFIG", "RESETSTAT")
        await asyncio.gather(*(hold(locks, name) for name in names))
        await nodes.none_left()
        per_name = 2 if nodes.strategy == "lua" else 3  # the fence is raised on a majority
        # On a busy machine the look at the start may come late.
        assert await scripts_run(nodes) <= per_name * len(names) + 10


async def test_many_attempts_and_releases_at_once(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five seconds, which a busy machine may need for a hundred.
    monkeypatch.setattr("app.core.locks.locks._SLOT_TIMEOUT", HANG)
    async with few_connections(nodes) as locks:
        leases = await asyncio.gather(
            *(locks.try_acquire(f"name-{number}", ttl=_TTL) for number in range(100))
        )
        released = await asyncio.gather(*(lease.release() for lease in leases if lease))
    assert released == [True] * 100


async def test_control_without_slots(single: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pools' own queues take a wait for an outage."""
    monkeypatch.setattr(Node, "capacity", 10_000)
    failures = pool_timeouts(single)
    async with few_connections(single) as locks:
        outcomes = await asyncio.gather(
            *(locks.try_acquire(f"name-{number}", ttl=_TTL) for number in range(300)),
            return_exceptions=True,
        )
    assert any(isinstance(outcome, LockUnavailable) for outcome in outcomes)
    assert pool_timeouts(single) > failures


async def test_who_gives_up_before_its_turn_has_sent_nothing(single: Nodes) -> None:
    async with few_connections(single) as locks:
        await hold(locks, "warm-up")
        await ask(single.urls[0], "CONFIG", "RESETSTAT")
        tasks = [asyncio.create_task(hold(locks, f"name-{number}")) for number in range(300)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await single.none_left()
        assert await scripts_run(single) <= 2 * _CONNECTIONS
        async with locks.hold("name", timeout=HANG):
            pass


async def test_each_is_told_in_time_when_the_servers_are_away(nodes: Nodes, clock: Clock) -> None:
    """Of a hundred nearly all are still waiting for their turn when their time is up."""
    patience, node_timeout = 3, 5
    async with open_locks(nodes.strategy, nodes.urls, node_timeout=node_timeout) as locks:
        for server in nodes.servers:
            server.freeze()
        tasks = [
            asyncio.create_task(_enter(locks, f"name-{number}", patience)) for number in range(100)
        ]
        with clock.stopped():
            took = await clock.advance_until(
                lambda: all(task.done() for task in tasks), step=0.25, most=60
            )
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        nodes.thaw()
    assert all(isinstance(outcome, LockUnavailable) for outcome in outcomes)
    assert took < patience + 2 * node_timeout + 1


async def _enter(locks: Locks, name: str, seconds: float) -> None:
    async with locks.hold(name, timeout=seconds):
        pytest.fail("entered")


@pytest.mark.slow
async def test_many_held_locks_are_renewed(nodes: Nodes, clock: Clock) -> None:
    async with few_connections(nodes) as locks, AsyncExitStack() as stack:
        leases = [
            await stack.enter_async_context(locks.hold(f"name-{number}", ttl=_TTL))
            for number in range(1100 if nodes.strategy == "lua" else 200)
        ]
        before = clock()
        await clock.advance(_TTL / 2)
        await until(lambda: all(lease.renewed > before for lease in leases), what="the renewals")
        for lease in leases:
            lease.check()


async def test_a_full_queue_of_one_name_is_a_timeout_and_no_outage(single: Nodes) -> None:
    async with few_connections(single) as locks, locks.hold("name", ttl=_TTL):
        tasks = [asyncio.create_task(_enter(locks, "name", 0.1)) for _ in range(50)]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {LockTimeout}
