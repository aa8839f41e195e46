"""Refused only where a lock can have been forgotten: what a server goes through, and what not.

Each case tells a server apart from itself before: by what it is asked after the event.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property

import pytest

from app.core.locks import Locks
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.locks.nodes import Nodes, ask, open_locks
from tests.support.versions import VERSIONS

_OPTIONS = {"quarantine": 600.0, "max_ttl": 600.0}


class Stage:
    """A server that keeps a lock, and another one that knows nothing."""

    def __init__(self, server: EmbeddedValkey, stack: ExitStack) -> None:
        self.server = server
        self._stack = stack

    @cached_property
    def other(self) -> EmbeddedValkey:
        """Started by those who need it."""
        return self._stack.enter_context(type(self.server)())

    async def do(self, *command: object) -> None:
        await ask(self.server.url, *command)

    async def follow(self, replica: EmbeddedValkey, primary: EmbeddedValkey) -> None:
        """Make one the replica of the other, and wait until it is in step."""
        await ask(primary.url, "CONFIG", "SET", "repl-diskless-sync-delay", 0)
        await ask(replica.url, "REPLICAOF", primary.host, primary.port)

        async def up() -> bool:
            info = await ask(replica.url, "INFO", "replication")
            return bool(info and info["master_link_status"] == "up")

        await until(up, what="the replica")

    async def no_replicas(self, primary: EmbeddedValkey) -> None:
        async def alone() -> bool:
            info = await ask(primary.url, "INFO", "replication")
            return bool(info["connected_slaves"] == 0)

        await until(alone, what="the end of the replication")


Event = Callable[[Stage], Awaitable[None]]


async def nothing(stage: Stage) -> None:
    """The control."""


async def first_replica(stage: Stage) -> None:
    await stage.follow(stage.other, stage.server)


async def replica_leaves_and_comes_back(stage: Stage) -> None:
    await stage.follow(stage.other, stage.server)
    await ask(stage.other.url, "REPLICAOF", "NO", "ONE")
    await stage.no_replicas(stage.server)
    await stage.follow(stage.other, stage.server)


async def backlog_is_freed(stage: Stage) -> None:
    """What a primary does that has had no replica for an hour: it begins another history."""
    await stage.do("CONFIG", "SET", "repl-backlog-ttl", 1)
    await stage.follow(stage.other, stage.server)
    before = (await ask(stage.server.url, "INFO", "replication"))["master_replid"]
    await ask(stage.other.url, "REPLICAOF", "NO", "ONE")

    async def freed() -> bool:
        info = await ask(stage.server.url, "INFO", "replication")
        return bool(info["master_replid"] != before)

    await until(freed, what="another replication id")


async def told_to_be_primary(stage: Stage) -> None:
    """It is one."""
    await stage.do("REPLICAOF", "NO", "ONE")


async def snapshot(stage: Stage) -> None:
    await stage.do("SAVE")


async def scripts_forgotten(stage: Stage) -> None:
    await stage.do("SCRIPT", "FLUSH")


async def connections_cut(stage: Stage) -> None:
    await stage.do("CLIENT", "KILL", "TYPE", "normal")


async def restart_from_snapshot(stage: Stage) -> None:
    await stage.do("SAVE")
    stage.server.kill()
    stage.server.restart()


async def restart_empty(stage: Stage) -> None:
    stage.server.kill()
    (stage.server.folder / "dump.rdb").unlink(missing_ok=True)
    stage.server.restart()


async def flushed(stage: Stage) -> None:
    await stage.do("FLUSHALL")


async def another_ones_data(stage: Stage) -> None:
    """It follows a server that knows other things, and is promoted."""
    await stage.follow(stage.server, stage.other)
    await stage.do("REPLICAOF", "NO", "ONE")


async def demoted_and_promoted(stage: Stage) -> None:
    """It has followed the one that was promoted in its place, which may have granted locks."""
    await stage.follow(stage.other, stage.server)
    await ask(stage.other.url, "REPLICAOF", "NO", "ONE")
    await stage.follow(stage.server, stage.other)
    await stage.do("REPLICAOF", "NO", "ONE")


async def cut_off_for_a_while(stage: Stage) -> None:
    """It was told to follow a server that it never reached: others may have."""
    await stage.do("REPLICAOF", "127.0.0.1", 1)
    await stage.do("REPLICAOF", "NO", "ONE")


@contextmanager
def stage(kind: type[EmbeddedValkey]) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack.enter_context(kind()), stack)


async def grants_after(event: Event, stage: Stage) -> bool:
    """Whether a lock is granted at once after what has happened, and none that is held."""
    nodes = Nodes("lua", [stage.server])
    async with open_locks("lua", nodes.urls, **_OPTIONS) as locks:
        await nodes.end_quarantine()
        held = await locks.try_acquire("held", ttl=10 * HANG)
        assert held is not None
        await event(stage)
        granted = await _granted(locks, "other")
        if granted:
            assert not await _granted(locks, "held"), "it is still held"
        return granted


async def _granted(locks: Locks, name: str) -> bool:
    return await locks.try_acquire(name, ttl=10 * HANG) is not None


@pytest.mark.slow
@pytest.mark.parametrize("server", VERSIONS)
@pytest.mark.parametrize(
    "event",
    [
        nothing,
        first_replica,
        replica_leaves_and_comes_back,
        backlog_is_freed,
        told_to_be_primary,
        snapshot,
        scripts_forgotten,
        connections_cut,
    ],
)
async def test_nothing_can_have_been_forgotten(server: type[EmbeddedValkey], event: Event) -> None:
    with stage(server) as on:
        assert await grants_after(event, on)


@pytest.mark.slow
@pytest.mark.parametrize("server", VERSIONS)
@pytest.mark.parametrize(
    "event",
    [
        restart_from_snapshot,
        restart_empty,
        flushed,
        another_ones_data,
        demoted_and_promoted,
        cut_off_for_a_while,
    ],
)
async def test_a_lock_can_have_been_forgotten(server: type[EmbeddedValkey], event: Event) -> None:
    with stage(server) as on:
        assert not await grants_after(event, on)


@pytest.mark.slow
async def test_a_quorum_whose_nodes_get_replicas_goes_on(redlock: Nodes) -> None:
    with ExitStack() as stack:
        async with open_locks("redlock", redlock.urls, **_OPTIONS) as locks:
            await redlock.end_quarantine()
            replica = Stage(redlock.servers[0], stack).other
            for server in redlock.majority:
                await Stage(server, stack).follow(replica, server)
            assert await _granted(locks, "name")
