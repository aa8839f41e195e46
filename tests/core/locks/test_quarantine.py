"""A server that lost its memory must not grant what it may have granted before.

What once failed here without a fault of the locks: leases of 0.6 s, for which a node of a quorum
had 30 ms to vote, and which were to outlast the restart of three servers. Now locks and quarantine
last for a minute, and the servers are told that the time has passed.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from app.core.locks import Lease, LockUnavailable
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import PREFIX, Nodes, ask, open_locks
from tests.core.locks.values import metric
from tests.support.faultproxy import FaultProxy

_TTL = 60.0
_WARM = {"quarantine": _TTL, "max_ttl": _TTL}
_NAIVE = {"quarantine": 0.0, "max_ttl": _TTL}


async def crash(nodes: Nodes) -> None:
    """Kill a majority, which comes back at once and empty."""
    for server in nodes.majority:
        server.kill()
        server.restart()


async def acquire_around(
    nodes: Nodes, fault: Callable[[], Awaitable[object]], options: dict[str, float]
) -> tuple[Lease, Lease | None]:
    """What two processes get, one before the fault and one after."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        first_process = await enter(open_locks(nodes.strategy, nodes.urls, **options))
        second_process = await enter(open_locks(nodes.strategy, nodes.urls, **options))
        await nodes.end_quarantine()  # every server is new to begin with
        first = await first_process.try_acquire("name", ttl=_TTL)
        assert first is not None
        await fault()
        second = await second_process.try_acquire("name", ttl=_TTL)
        assert first.remaining() > 0, "this test has to be faster than the ttl"
        if second is None:
            await nodes.end_quarantine()
            later = await second_process.try_acquire("name", ttl=_TTL)
            assert later is not None
            assert later.fence > first.fence
        return first, second


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["crash", "FLUSHALL"])
async def test_a_server_without_memory_waits(
    nodes: Nodes, fault: str, record_fault: RecordFault
) -> None:
    def happen() -> Awaitable[object]:
        return crash(nodes) if fault == "crash" else nodes.on_all("FLUSHALL")

    _, second = await acquire_around(nodes, happen, _WARM)
    nodes.heal()
    control_first, control_second = await acquire_around(nodes, happen, _NAIVE)
    record_fault(
        f"{'kill -9 and restart' if fault == 'crash' else fault} of a majority while held",
        nodes.strategy,
        runs=1,
        violations=int(second is not None),
        control="without quarantine: granted twice"
        if control_second is not None
        else "without quarantine: refused as well",
    )
    assert second is None
    assert control_second is not None
    assert control_second.fence > control_first.fence


async def acquire_around_failover(
    primary: EmbeddedValkey, link: FaultProxy, replica: EmbeddedValkey, options: dict[str, float]
) -> tuple[Lease, Lease | None]:
    """The replication link breaks, a lock is granted, and the primary dies before it can tell."""
    await in_step(replica)
    async with (
        open_locks("lua", [primary.url], **options) as before,
        open_locks("lua", [replica.url], **options) as after,
    ):
        await Nodes("lua", [primary]).end_quarantine()
        assert await ask(primary.url, "WAIT", 1, 0) == 1
        await link.drop_replies()  # what the primary tells its replica is a reply
        first = await before.try_acquire("name", ttl=_TTL)
        assert first is not None
        primary.kill()
        await ask(replica.url, "REPLICAOF", "NO", "ONE")
        second = await after.try_acquire("name", ttl=_TTL)
        assert first.remaining() > 0, "this test has to be faster than the ttl"
        if second is None:
            await Nodes("lua", [replica]).end_quarantine()
            later = await after.try_acquire("name", ttl=_TTL)
            assert later is not None
            assert later.fence > first.fence
        return first, second


@pytest.mark.slow
async def test_failover_to_a_replica_that_missed_the_grant(
    single: Nodes, record_fault: RecordFault
) -> None:
    primary = single.servers[0]
    outcomes: dict[str, tuple[Lease, Lease | None]] = {}
    for name, options in (("quarantine", _WARM), ("control", _NAIVE)):
        single.heal()
        await ask(primary.url, "CONFIG", "SET", "repl-diskless-sync-delay", 0)
        async with FaultProxy(primary.host, primary.port) as link:
            with EmbeddedValkey(replicaof=("127.0.0.1", link.port)) as replica:
                outcomes[name] = await acquire_around_failover(primary, link, replica, options)
    first, second = outcomes["control"]
    record_fault(
        "failover to a replica that missed the grant",
        "lua",
        runs=1,
        violations=int(outcomes["quarantine"][1] is not None),
        control="without quarantine: granted twice" if second else "without: refused as well",
    )
    assert outcomes["quarantine"][1] is None
    assert second is not None
    assert second.fence > first.fence


async def test_the_first_locks_of_a_new_server_wait_once(nodes: Nodes) -> None:
    quarantine = 0.4
    async with open_locks(nodes.strategy, nodes.urls, quarantine=quarantine, max_ttl=30) as locks:
        refusals = metric("lock_refusals_total", reason="quarantine")
        async with locks.hold("name", ttl=30, timeout=HANG) as lease:
            began = sorted(await noticed(nodes))[len(nodes.majority) - 1]
            # The fence of a new name is what the clock of a server said.
            assert lease.fence - began >= quarantine * 1_000_000
        # One attempt is told how long to wait; a node or two may be late to notice.
        assert metric("lock_refusals_total", reason="quarantine") - refusals <= 3
        async with locks.hold("other", ttl=30, timeout=0):
            pass


async def noticed(nodes: Nodes) -> list[int]:
    """When each server has noticed that it knows nothing, in microseconds of its clock."""
    return [int(await ask(url, "HGET", marker(), "since")) for url in nodes.urls]


def marker() -> str:
    return f"{PREFIX}:{{0}}:restart"


async def test_who_gives_up_before_it_ends_is_told_why(nodes: Nodes) -> None:
    async with open_locks(nodes.strategy, nodes.urls, quarantine=60, max_ttl=1) as locks:
        with pytest.raises(LockUnavailable, match="may have forgotten"):
            async with locks.hold("name", ttl=1, timeout=0.1):
                pass


async def test_a_clock_that_is_set_back_does_not_prolong_it(nodes: Nodes) -> None:
    async with open_locks(nodes.strategy, nodes.urls, quarantine=0.3, max_ttl=30) as locks:
        for url in nodes.urls:  # as if it had begun in an hour from now
            await ask(url, "HINCRBY", marker(), "since", 3_600_000_000)
        async with locks.hold("name", ttl=30, timeout=HANG):
            pass


async def test_by_default_the_quarantine_is_the_longest_ttl(nodes: Nodes) -> None:
    async with open_locks(nodes.strategy, nodes.urls, quarantine=None, max_ttl=100) as locks:
        assert await locks.try_acquire("name", ttl=1) is None
        for url in nodes.urls:
            await ask(url, "HINCRBY", marker(), "since", -60_000_000)
        assert await locks.try_acquire("name", ttl=1) is None
        for url in nodes.urls:
            await ask(url, "HINCRBY", marker(), "since", -40_000_000)
        assert await locks.try_acquire("name", ttl=1) is not None


async def test_without_quarantine_a_new_server_grants_at_once(nodes: Nodes) -> None:
    async with (
        open_locks(nodes.strategy, nodes.urls, quarantine=0) as locks,
        locks.hold("name", timeout=0),
    ):
        pass


@pytest.mark.slow
async def test_a_minority_that_forgot_is_not_felt(redlock: Nodes) -> None:
    async with open_locks("redlock", redlock.urls, quarantine=60) as locks:
        await redlock.end_quarantine()
        for server in redlock.servers[:2]:
            server.kill()
            server.restart()
        async with locks.hold("name", timeout=0):
            pass


async def in_step(replica: EmbeddedValkey) -> None:
    """Wait until a replica has what its primary has."""

    async def up() -> bool:
        info = await ask(replica.url, "INFO", "replication")
        return bool(info["master_link_status"] == "up")

    await until(up, what="the replication")
