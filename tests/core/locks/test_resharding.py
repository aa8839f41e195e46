"""Slots that move to another node of a cluster, with the locks in them."""

from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from app.core.locks.store import LockKeys
from devservers.waiting import HANG, until
from tests.core.locks.nodes import PREFIX, ask
from tests.core.locks.test_topologies import locks_at
from tests.support.cluster import ClusterNode, EmbeddedCluster

pytestmark = pytest.mark.slow

_KEYS = LockKeys(PREFIX, tags=64)
_TTL = 10 * HANG


@pytest.fixture
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


class Move:
    """Of the slot of one lock, to a node that does not have it."""

    def __init__(self, cluster: EmbeddedCluster, name: str) -> None:
        self._cluster = cluster
        self.slot = key_slot(_KEYS.of(name).lock.encode())
        owner = len(cluster.nodes) * self.slot // 16_384
        self.source: ClusterNode = cluster.nodes[owner]
        self.target: ClusterNode = cluster.nodes[(owner + 1) % len(cluster.nodes)]

    async def begin(self) -> None:
        source, target = [await self._id(node) for node in (self.source, self.target)]
        await self._cluster_says(self.target, "IMPORTING", source)
        await self._cluster_says(self.source, "MIGRATING", target)

    async def carry(self, number: int | None = None) -> None:
        """Move so many keys, or all."""
        keys = await ask(self.source.url, "CLUSTER", "GETKEYSINSLOT", self.slot, 1000)
        for key in keys[:number]:
            to = (self.target.host, self.target.port)
            await ask(self.source.url, "MIGRATE", *to, key, 0, 60_000)

    async def end(self) -> None:
        target = await self._id(self.target)
        for node in (self.target, self.source, *self._cluster.nodes):
            await self._cluster_says(node, "NODE", target)

    async def happen(self) -> None:
        await self.begin()
        await self.carry()
        await self.end()

    async def _cluster_says(self, node: ClusterNode, *what: object) -> None:
        await ask(node.url, "CLUSTER", "SETSLOT", self.slot, *what)

    async def _id(self, node: ClusterNode) -> bytes:
        found: bytes = await ask(node.url, "CLUSTER", "MYID")
        return found


def neighbours(name: str) -> Iterator[str]:
    """Other names, in the same slot."""
    marker = _KEYS.of(name).restart_marker
    return (
        other
        for number in range(10_000)
        if _KEYS.of(other := f"n{number}").restart_marker == marker
    )


async def quarantine_is_over(cluster: EmbeddedCluster) -> None:
    for node in cluster.nodes:
        for key in await ask(node.url, "KEYS", f"{PREFIX}:*:restart"):
            await ask(node.url, "HINCRBY", key, "since", -3_600_000_000)


async def all_markers(cluster: EmbeddedCluster) -> None:
    async def all_there() -> bool:
        found = [await ask(node.url, "KEYS", f"{PREFIX}:*:restart") for node in cluster.nodes]
        return sum(map(len, found)) == 64

    await until(all_there, what="64 markers")


async def has_its_place(node: ClusterNode) -> None:
    async def serves() -> bool:
        return b"cluster_state:ok" in (await ask(node.url, "CLUSTER", "INFO") or b"")

    await until(serves, what="a place in the cluster")


async def test_locks_move_along_with_their_slot(cluster: EmbeddedCluster) -> None:
    """Held ones stay held, and are renewed and released; free ones are granted at once."""
    free, later, *_ = neighbours("name")
    move = Move(cluster, "name")
    async with (
        locks_at(cluster.url, quarantine=600) as locks,
        locks_at(cluster.url, quarantine=600) as others,
    ):
        await all_markers(cluster)
        await quarantine_is_over(cluster)
        lease = await locks.try_acquire("name", ttl=_TTL)
        assert lease is not None
        await move.happen()
        assert await others.try_acquire("name", ttl=_TTL) is None
        found = await others.try_acquire(free, ttl=_TTL)
        assert found is not None
        assert found.fence > lease.fence
        await lease.extend()
        assert await lease.release()
        async with others.hold("name", ttl=_TTL, timeout=HANG):
            pass
        # And back again.
        move.source, move.target = move.target, move.source
        await move.happen()
        assert await locks.try_acquire(later, ttl=_TTL) is not None
        assert await others.try_acquire(free, ttl=_TTL) is None


async def test_a_lock_is_renewed_and_released_while_its_slot_moves(
    cluster: EmbeddedCluster,
) -> None:
    move = Move(cluster, "name")
    async with locks_at(cluster.url, quarantine=600) as locks:
        await all_markers(cluster)
        await quarantine_is_over(cluster)
        lease = await locks.try_acquire("name", ttl=_TTL)
        assert lease is not None
        await move.begin()
        await lease.extend()
        await move.carry(2)
        await lease.extend()
        assert await lease.release()
        await move.carry()
        await move.end()
        async with locks.hold("name", ttl=_TTL, timeout=HANG):
            pass


async def test_a_node_that_forgot_after_the_move_refuses(cluster: EmbeddedCluster) -> None:
    [other, *_] = neighbours("name")
    move = Move(cluster, "name")
    async with locks_at(cluster.url, quarantine=600) as locks:
        await all_markers(cluster)
        await quarantine_is_over(cluster)
        await move.happen()
        await ask(move.target.url, "SAVE")
        assert await locks.try_acquire("name", ttl=_TTL) is not None
        move.target.kill()
        move.target.restart()
        await has_its_place(move.target)
        assert await locks.try_acquire(other, ttl=_TTL) is None


async def test_a_node_that_forgot_before_the_move_refuses(cluster: EmbeddedCluster) -> None:
    """The slot comes from a server that was restarted on an older snapshot, and nobody noticed."""
    [other, *_] = neighbours("name")
    move = Move(cluster, "name")
    async with locks_at(cluster.url, quarantine=600) as locks:
        await all_markers(cluster)
        await quarantine_is_over(cluster)
        await ask(move.source.url, "SAVE")
        assert await locks.try_acquire("name", ttl=_TTL) is not None
        move.source.kill()
        move.source.restart()
        await has_its_place(move.source)
        await move.happen()
        assert await locks.try_acquire(other, ttl=_TTL) is None


async def test_locks_move_to_a_node_that_had_none(cluster: EmbeddedCluster) -> None:
    [other, *_] = neighbours("name")
    move = Move(cluster, "name")
    with ClusterNode() as newcomer:
        first = cluster.nodes[0]
        await ask(newcomer.url, "CLUSTER", "MEET", first.host, first.port, first.bus_port)
        await has_its_place(newcomer)
        move.target = newcomer

        async def has_run_for_longer_than_a_lock() -> bool:
            return bool((await ask(newcomer.url, "INFO", "server"))["uptime_in_seconds"] >= 2)

        async with locks_at(cluster.url, quarantine=1) as locks:
            await all_markers(cluster)
            await quarantine_is_over(cluster)
            await until(has_run_for_longer_than_a_lock, what="the second second")
            await move.happen()
            assert await locks.try_acquire(other, ttl=1) is not None
