"""The `lua` strategy on a cluster, and behind sentinels while they fail over."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from app.core.locks import LockLost, Locks
from app.core.locks.lua import LuaStore
from app.core.redis import ClientOptions, create_client
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import PREFIX, ask
from tests.support.cluster import EmbeddedCluster
from tests.support.sentinel import ReplicatedValkey

pytestmark = pytest.mark.slow


@asynccontextmanager
async def locks_at(url: str, *, quarantine: float = 0, max_ttl: float = 30) -> AsyncIterator[Locks]:
    client = create_client(url, ClientOptions(name="test"))
    try:
        async with Locks(
            LuaStore(client), prefix=PREFIX, quarantine=quarantine, max_ttl=max_ttl
        ) as locks:
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


async def test_cluster_contention_and_renewal(cluster: EmbeddedCluster) -> None:
    inside = 0
    worst = 0

    async def work(locks: Locks, name: str) -> None:
        nonlocal inside, worst
        for _ in range(3):
            async with locks.hold(name, ttl=0.6, timeout=20) as lease:
                inside += 1
                worst = max(worst, inside)
                await asyncio.sleep(0.01)
                lease.check()
                inside -= 1

    async with locks_at(cluster.url) as locks, locks_at(cluster.url) as others:
        await asyncio.gather(*(work(l_, "busy") for l_ in (locks, others) for _ in range(8)))
        assert worst == 1
        # One watchdog for leases on every node.
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(_hold_for(locks, f"long-{number}", seconds=1.5))


async def _hold_for(locks: Locks, name: str, *, seconds: float, ttl: float = 1.0) -> None:
    async with locks.hold(name, ttl=ttl) as lease:
        await asyncio.sleep(seconds)
        lease.check()


async def test_cluster_quarantine_is_waited_for_once(cluster: EmbeddedCluster) -> None:
    """Every hash tag has a marker of its own, and all of them start when the locks open."""
    async with locks_at(cluster.url, quarantine=0.8, max_ttl=0.8) as locks:
        await asyncio.sleep(1.6)
        for number in range(40):
            lease = await locks.try_acquire(f"after-{number}", ttl=0.8)
            assert lease is not None
            await lease.release()


async def test_a_frozen_shard_does_not_take_the_others_leases_along(
    cluster: EmbeddedCluster,
) -> None:
    async with locks_at(cluster.url) as locks:
        frozen = cluster.nodes[0]
        here: list[str] = []
        elsewhere: list[str] = []
        for name in (f"spread-{number}" for number in range(60)):
            async with locks.hold(name):
                on_it = await ask(frozen.url, "KEYS", f"{PREFIX}:*:held:{name}")
                (here if on_it else elsewhere).append(name)
        survivors = [
            asyncio.create_task(_hold_for(locks, name, seconds=3.5, ttl=3))
            for name in elsewhere[:6]
        ]
        doomed = [asyncio.create_task(_hold_for(locks, name, seconds=3.5, ttl=3)) for name in here]
        await asyncio.sleep(0.3)
        frozen.freeze()
        try:
            outcomes = await asyncio.gather(*doomed, return_exceptions=True)
            await asyncio.gather(*survivors)
        finally:
            frozen.thaw()
    assert doomed
    assert all(isinstance(outcome, LockLost) for outcome in outcomes)
    cluster.wait_until_ready()


async def test_sentinel_failover(record_fault: RecordFault) -> None:
    with ReplicatedValkey() as replicated:
        async with locks_at(replicated.url, quarantine=0.5, max_ttl=0.5) as locks:
            async with locks.hold("name", ttl=0.5, timeout=5) as lease:
                first = lease.fence
            old = await asyncio.to_thread(replicated.kill_primary)
            await asyncio.to_thread(replicated.wait_for_new_primary, old)
            async with locks.hold("name", ttl=0.5, timeout=10) as lease:
                second = lease.fence
    record_fault(
        "Sentinel fails over between two grants",
        "lua",
        runs=1,
        violations=int(second <= first),
        control="-",
    )
    assert second > first
