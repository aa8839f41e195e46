"""Slots that move to another node of a cluster, with the locks in them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import pytest
from redis.crc import key_slot

from app.core.locks.store import LockKeys
from devservers.waiting import HANG, until
from tests.core.locks.nodes import PREFIX, ask
from tests.core.locks.test_topologies import locks_at
from tests.support.cluster import SLOTS, ClusterNode, EmbeddedCluster

pytestmark = pytest.mark.slow

_KEYS = LockKeys(PREFIX, tags=64)
_TTL = 10 * HANG


@dataclass(frozen=True, slots=True)
class Stage:
    """A cluster, and one node more in it that has no slots. Each test moves a slot of its own."""

    cluster: EmbeddedCluster
    newcomer: ClusterNode
    unmoved: Iterator[str]

    @property
    def url(self) -> str:
        return self.cluster.url

    @property
    def nodes(self) -> Sequence[ClusterNode]:
        return [*self.cluster.nodes, self.newcomer]


@pytest.fixture(scope="module")
def whole_cluster() -> Iterator[Stage]:
    with ClusterNode() as newcomer, EmbeddedCluster() as cluster:
        yield Stage(cluster, newcomer, names_of_different_slots())


@pytest.fixture
async def cluster(whole_cluster: Stage) -> Stage:
    """Without any key."""
    first, newcomer = whole_cluster.cluster.nodes[0], whole_cluster.newcomer
    await ask(newcomer.url, "CLUSTER", "MEET", first.host, first.port, first.bus_port)
    for node in whole_cluster.nodes:
        await has_its_place(node)
        await ask(node.url, "FLUSHALL")
    return whole_cluster


@pytest.fixture
def name(cluster: Stage) -> str:
    """Of a lock whose slot is where it was at first."""
    return next(cluster.unmoved)


def names_of_different_slots() -> Iterator[str]:
    seen = set()
    for number in count():
        slot = slot_of(name := f"name-{number}")
        if slot not in seen:
            seen.add(slot)
            yield name


def slot_of(name: str) -> int:
    slot: int = key_slot(_KEYS.of(name).lock.encode())
    return slot


class Move:
    """Of the slot of one lock, to a node that does not have it."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._nodes = stage.nodes
        self.slot = slot_of(name)
        nodes = stage.cluster.nodes
        owner = len(nodes) * self.slot // SLOTS
        self.source: ClusterNode = nodes[owner]
        self.target: ClusterNode = nodes[(owner + 1) % len(nodes)]

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
        for node in (self.target, self.source, *self._nodes):
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


async def quarantine_is_over(cluster: Stage) -> None:
    for node in cluster.nodes:
        for key in await ask(node.url, "KEYS", f"{PREFIX}:*:restart"):
            await ask(node.url, "HINCRBY", key, "since", -3_600_000_000)


async def all_markers(cluster: Stage) -> None:
    async def all_there() -> bool:
        found = [await ask(node.url, "KEYS", f"{PREFIX}:*:restart") for node in cluster.nodes]
        return sum(map(len, found)) == 64

    await until(all_there, what="64 markers")


async def has_its_place(node: ClusterNode) -> None:
    async def serves() -> bool:
        return b"cluster_state:ok" in (await ask(node.url, "CLUSTER", "INFO") or b"")

    await until(serves, what="a place in the cluster")


async def test_locks_move_along_with_their_slot(cluster: Stage, name: str) -> None:
    """Held ones stay held, and are renewed and released; free ones are granted at once."""
    free, later, *_ = neighbours(name)
    move = Move(cluster, name)
    async with (
        locks_at(cluster.url, quarantine=600) as locks,
        locks_at(cluster.url, quarantine=600) as others,
    ):
        await all_markers(cluster)
        await quarantine_is_over(cluster)
        lease = await locks.try_acquire(name, ttl=_TTL)
        assert lease is not None
        await move.happen()
        assert await others.try_acquire(name, ttl=_TTL) is None
        found = await others.try_acquire(free, ttl=_TTL)
        assert found is not None
        assert found.fence > lease.fence
        await lease.extend()
        assert await lease.release()
        async with others.hold(name, ttl=_TTL, timeout=HANG):
            pass
        # And back again.
        move.source, move.target = move.target, move.source
        await move.happen()
        assert await locks.try_acquire(later, ttl=_TTL) is not None
        assert await others.try_acquire(free, ttl=_TTL) is None


async def test_a_lock_is_renewed_and_released_while_its_slot_moves(
    cluster: Stage, name: str
) -> None:
    move = Move(cluster, name)
    async with locks_at(cluster.url, quarantine=600) as locks:
        await all_markers(cluster)
        await quarantine_is_over(cluster)
        lease = await locks.try_acquire(name, ttl=_TTL)
        assert lease is not None
        await move.begin()
        await lease.extend()
        await move.carry(2)
        await lease.extend()
        assert await lease.release()
        await move.carry()
        await move.end()
        async with locks.hold(name, ttl=_TTL, timeout=HANG):
            pass


async def test_a_node_that_forgot_after_the_move_refuses(cluster: Stage, name: str) -> None:
    [other, *_] = neighbours(name)
    move = Move(cluster, name)
    async with locks_at(cluster.url, quarantine=600) as locks:
        await all_markers(cluster)
        await quarantine_is_over(cluster)
        await move.happen()
        await ask(move.target.url, "SAVE")
        assert await locks.try_acquire(name, ttl=_TTL) is not None
        move.target.kill()
        move.target.restart()
        await has_its_place(move.target)
        assert await locks.try_acquire(other, ttl=_TTL) is None


async def test_a_node_that_forgot_before_the_move_refuses(cluster: Stage, name: str) -> None:
    """The slot comes from a server that was restarted on an older snapshot, and nobody noticed."""
    [other, *_] = neighbours(name)
    move = Move(cluster, name)
    async with locks_at(cluster.url, quarantine=600) as locks:
        await all_markers(cluster)
        await quarantine_is_over(cluster)
        await ask(move.source.url, "SAVE")
        assert await locks.try_acquire(name, ttl=_TTL) is not None
        move.source.kill()
        move.source.restart()
        await has_its_place(move.source)
        await move.happen()
        assert await locks.try_acquire(other, ttl=_TTL) is None


async def test_locks_move_to_a_node_that_had_none(cluster: Stage, name: str) -> None:
    [other, *_] = neighbours(name)
    move = Move(cluster, name)
    move.target = cluster.newcomer

    async def has_run_for_longer_than_a_lock() -> bool:
        return bool((await ask(move.target.url, "INFO", "server"))["uptime_in_seconds"] >= 2)

    async with locks_at(cluster.url, quarantine=1) as locks:
        await all_markers(cluster)
        await quarantine_is_over(cluster)
        await until(has_run_for_longer_than_a_lock, what="the second second")
        await move.happen()
        assert await locks.try_acquire(other, ttl=1) is not None
