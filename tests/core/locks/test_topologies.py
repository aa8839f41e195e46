"""The `lua` strategy on a cluster, and behind sentinels while they fail over."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from app.core.locks import LockLost, Locks
from app.core.locks.node import Node
from app.core.redis import create_client
from devservers.waiting import HANG, until
from tests.core.locks.clock import Clock
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import NODE_TIMEOUT, PREFIX, ask, patient, plain_client, renewed
from tests.support.cluster import EmbeddedCluster
from tests.support.sentinel import ReplicatedValkey

pytestmark = pytest.mark.slow


@asynccontextmanager
async def locks_at(
    url: str, *, quarantine: float = 0, max_ttl: float = 600, node_timeout: float = NODE_TIMEOUT
) -> AsyncIterator[Locks]:
    client = create_client(url, patient(node_timeout))
    store = Node(client, timeout=node_timeout)
    try:
        async with Locks(store, prefix=PREFIX, quarantine=quarantine, max_ttl=max_ttl) as locks:
            yield locks
    finally:
        await client.aclose()


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


async def test_cluster(cluster: EmbeddedCluster) -> None:
    async with locks_at(cluster.url) as locks, locks_at(cluster.url) as others:
        fences = {}
        for number in range(30):  # names on all three nodes
            async with locks.hold(f"name-{number}") as lease:
                assert await others.try_acquire(f"name-{number}") is None
                fences[number] = lease.fence
        for number in range(30):
            async with others.hold(f"name-{number}") as lease:
                assert lease.fence > fences[number]
    holders = [await ask(node.url, "KEYS", f"{PREFIX}:*:fence:*") for node in cluster.nodes]
    assert all(holders), "every node had its share"


async def test_cluster_contention(cluster: EmbeddedCluster) -> None:
    inside = 0
    worst = 0

    async def work(locks: Locks, name: str) -> None:
        nonlocal inside, worst
        for _ in range(3):
            async with locks.hold(name, ttl=60, timeout=HANG) as lease:
                inside += 1
                worst = max(worst, inside)
                await asyncio.sleep(0.001)
                lease.check()
                inside -= 1

    async with locks_at(cluster.url) as locks, locks_at(cluster.url) as others:
        await asyncio.gather(*(work(l_, "busy") for l_ in (locks, others) for _ in range(8)))
    assert worst == 1


async def test_one_watchdog_renews_leases_on_every_node(
    cluster: EmbeddedCluster, clock: Clock
) -> None:
    async with locks_at(cluster.url) as locks, AsyncExitStack() as stack:
        leases = [
            await stack.enter_async_context(locks.hold(f"long-{number}", ttl=60))
            for number in range(12)
        ]
        for _ in range(4):
            before = [lease.renewed for lease in leases]
            await clock.advance(25)
            for lease, then in zip(leases, before, strict=True):
                await renewed(lease, after=then)
        for lease in leases:
            lease.check()


async def test_cluster_quarantine_is_waited_for_once(cluster: EmbeddedCluster) -> None:
    """Every hash tag has a marker of its own, and all of them start when the locks open."""

    async def markers() -> list[tuple[str, bytes]]:
        return [
            (node.url, key)
            for node in cluster.nodes
            for key in await ask(node.url, "KEYS", f"{PREFIX}:*:restart")
        ]

    async def all_there() -> bool:
        return len(await markers()) == 64

    async with locks_at(cluster.url, quarantine=60) as locks:
        await until(all_there, what="64 markers")
        assert await locks.try_acquire("too early") is None
        for url, key in await markers():
            await ask(url, "HINCRBY", key, "since", -60_000_000)
        for number in range(40):
            lease = await locks.try_acquire(f"after-{number}")
            assert lease is not None
            await lease.release()


async def test_a_frozen_shard_does_not_take_the_others_leases_along(
    cluster: EmbeddedCluster, clock: Clock
) -> None:
    frozen = cluster.nodes[0]
    for node in cluster.nodes:  # else the others stop, too, once they agree that it is gone
        await ask(node.url, "CONFIG", "SET", "cluster-require-full-coverage", "no")

    async def hold(name: str) -> None:
        async with locks.hold(name, ttl=60):
            held.append(name)
            await asyncio.sleep(100)  # by when a lease that is not renewed is over

    async with locks_at(cluster.url, node_timeout=4) as locks, AsyncExitStack() as stack:
        here: list[str] = []
        elsewhere: list[str] = []
        for name in (f"spread-{number}" for number in range(30)):
            async with locks.hold(name):
                on_it = await ask(frozen.url, "KEYS", f"{PREFIX}:*:held:{name}")
                (here if on_it else elsewhere).append(name)
        held: list[str] = []
        survivors = [asyncio.create_task(hold(name)) for name in elsewhere[:6]]
        doomed = [asyncio.create_task(hold(name)) for name in here]
        await until(lambda: len(held) == len(survivors) + len(doomed), what="all locks")
        frozen.freeze()
        alive = [await stack.enter_async_context(plain_client(n.url)) for n in cluster.nodes[1:]]
        try:
            while not all(task.done() for task in (*doomed, *survivors)):
                # Slowly enough for the servers that answer, however busy the machine is.
                await clock.advance(1)
                for client in alive:
                    await client.ping()
            outcomes = await asyncio.gather(*doomed, return_exceptions=True)
            await asyncio.gather(*survivors)
        finally:
            frozen.thaw()
    assert doomed
    assert all(isinstance(outcome, LockLost) for outcome in outcomes)
    await asyncio.to_thread(cluster.wait_until_ready)


async def test_sentinel_failover(record_fault: RecordFault) -> None:
    with ReplicatedValkey() as replicated:
        async with locks_at(replicated.url, quarantine=0.5, max_ttl=60) as locks:
            async with locks.hold("name", ttl=60, timeout=HANG) as lease:
                first = lease.fence
            old = await asyncio.to_thread(replicated.kill_primary)
            await asyncio.to_thread(replicated.wait_for_new_primary, old)
            async with locks.hold("name", ttl=60, timeout=2 * HANG) as lease:
                second = lease.fence
    record_fault(
        "Sentinel fails over between two grants",
        "lua",
        runs=1,
        violations=int(second <= first),
        control="-",
    )
    assert second > first
