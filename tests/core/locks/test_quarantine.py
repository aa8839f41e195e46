"""A server that lost its memory must not grant what it may have granted before."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from app.core.locks import Lease, LockUnavailable
from devservers.valkey import EmbeddedValkey
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import Nodes, ask, open_locks, settle
from tests.support.faultproxy import FaultProxy

_TTL = 0.6
_WARM = {"quarantine": _TTL, "max_ttl": _TTL}
_NAIVE = {"quarantine": 0.0, "max_ttl": _TTL}


async def crash(nodes: Nodes) -> None:
    """Kill a majority, which comes back at once and empty."""
    for server in nodes.majority:
        server.kill()
        server.restart()


async def acquire_around(
    nodes: Nodes, fault: Callable[[], Awaitable[object]], options: dict[str, float]
) -> tuple[Lease, Lease | None, float]:
    """What two processes get, one before the fault and one after; the wait of the second."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        first_process = await enter(open_locks(nodes.strategy, nodes.urls, **options))
        second_process = await enter(open_locks(nodes.strategy, nodes.urls, **options))
        await settle(options["quarantine"] * 1.1)  # every server is new to begin with
        first = await first_process.try_acquire("name", ttl=_TTL)
        assert first is not None
        await fault()
        second = await second_process.try_acquire("name", ttl=_TTL)
        if second is not None:
            assert first.remaining() > 0, "this test has to be faster than the ttl"
            return first, second, 0.0
        began = time.monotonic()
        async with second_process.hold("name", ttl=_TTL, timeout=5) as later:
            waited = time.monotonic() - began
            assert first.remaining() == 0
            assert later.fence > first.fence
        return first, None, waited


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["crash", "FLUSHALL"])
async def test_a_server_without_memory_waits(
    nodes: Nodes, fault: str, record_fault: RecordFault
) -> None:
    def happen() -> Awaitable[object]:
        return crash(nodes) if fault == "crash" else nodes.on_all("FLUSHALL")

    _, second, waited = await acquire_around(nodes, happen, _WARM)
    nodes.heal()
    control_first, control_second, _ = await acquire_around(nodes, happen, _NAIVE)
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
    assert waited < 2 * _TTL
    assert control_second is not None
    assert control_second.fence > control_first.fence


async def acquire_around_failover(
    primary: EmbeddedValkey, link: FaultProxy, replica: EmbeddedValkey, options: dict[str, float]
) -> tuple[Lease, Lease | None]:
    """The replication link breaks, a lock is granted, and the primary dies before it can tell."""
    await _replica_is_ready(replica)
    async with (
        open_locks("lua", [primary.url], **options) as before,
        open_locks("lua", [replica.url], **options) as after,
    ):
        await settle(options["quarantine"] * 1.1)
        assert await ask(primary.url, "WAIT", 1, 2000) == 1
        await link.drop_replies()  # what the primary tells its replica is a reply
        first = await before.try_acquire("name", ttl=_TTL)
        assert first is not None
        primary.kill()
        await ask(replica.url, "REPLICAOF", "NO", "ONE")
        second = await after.try_acquire("name", ttl=_TTL)
        assert first.remaining() > 0, "this test has to be faster than the ttl"
        if second is None:
            async with after.hold("name", ttl=_TTL, timeout=5) as later:
                assert first.remaining() == 0
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
    async with open_locks(nodes.strategy, nodes.urls, quarantine=0.4, max_ttl=1) as locks:
        assert await locks.try_acquire("name", ttl=1) is None
        began = time.monotonic()
        async with locks.hold("name", ttl=1):
            assert 0.2 < time.monotonic() - began < 0.7
        async with locks.hold("other", ttl=1, timeout=0):
            pass


async def test_who_gives_up_before_it_ends_is_told_why(nodes: Nodes) -> None:
    async with open_locks(nodes.strategy, nodes.urls, quarantine=5, max_ttl=1) as locks:
        with pytest.raises(LockUnavailable, match="lost its memory"):
            async with locks.hold("name", ttl=1, timeout=0.1):
                pass


async def test_a_clock_that_is_set_back_does_not_prolong_it(nodes: Nodes) -> None:
    async with open_locks(nodes.strategy, nodes.urls, quarantine=0.5, max_ttl=0.5) as locks:
        await locks.try_acquire("name", ttl=0.5)
        for url in nodes.urls:  # as if it had begun an hour from now
            [marker] = await ask(url, "KEYS", "*:memory")
            await ask(url, "HINCRBY", marker, "since", 3_600_000_000)
        await locks.try_acquire("name", ttl=0.5)
        await asyncio.sleep(0.6)
        assert await locks.try_acquire("name", ttl=0.5) is not None


async def test_by_default_the_quarantine_is_the_longest_ttl(nodes: Nodes) -> None:
    async with open_locks(nodes.strategy, nodes.urls, quarantine=None, max_ttl=0.4) as locks:
        assert await locks.try_acquire("name", ttl=0.4) is None
        await asyncio.sleep(0.45)
        assert await locks.try_acquire("name", ttl=0.4) is not None


async def test_without_quarantine_a_new_server_grants_at_once(nodes: Nodes) -> None:
    async with (
        open_locks(nodes.strategy, nodes.urls, quarantine=0) as locks,
        locks.hold("name", timeout=0),
    ):
        pass


@pytest.mark.slow
async def test_a_minority_that_forgot_is_not_felt(redlock: Nodes) -> None:
    async with open_locks("redlock", redlock.urls, quarantine=0.5, max_ttl=0.5) as locks:
        await settle(0.6)
        for server in redlock.servers[:2]:
            server.kill()
            server.restart()
        async with locks.hold("name", ttl=0.5, timeout=0):
            pass


async def _replica_is_ready(replica: EmbeddedValkey) -> None:
    for _ in range(200):
        if (await ask(replica.url, "INFO", "replication"))["master_link_status"] == "up":
            return
        await asyncio.sleep(0.05)
    pytest.fail("the replica never connected")
