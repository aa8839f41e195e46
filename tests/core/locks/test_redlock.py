"""What only a quorum can show."""

import asyncio
import statistics
import time

import pytest

from app.core.locks import LockLost, Locks, LockTimeout
from devservers.waiting import HANG, until
from tests.core.locks.clock import Clock
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import Nodes, ask, lock_key, open_locks, plain_client

_NODE_TIMEOUT = 1.0
_RUNS = 40
_NO_EXPIRY = -1


@pytest.mark.slow
async def test_two_of_five_gone(redlock: Nodes, record_fault: RecordFault) -> None:
    """One killed and one frozen: an acquisition does not wait for them."""
    async with open_locks("redlock", redlock.urls, node_timeout=_NODE_TIMEOUT) as locks:
        healthy = await acquire_p50(locks)
        redlock.servers[0].kill()
        redlock.servers[1].freeze()
        degraded = await acquire_p50(locks)
        control = await wait_for_all(redlock)
    record_fault(
        "1 of 5 killed and 1 frozen",
        "redlock",
        runs=_RUNS,
        violations=int(degraded >= _NODE_TIMEOUT / 2),
        control=f"acquire p50 {healthy * 1000:.1f} ms -> {degraded * 1000:.1f} ms "
        f"({degraded / healthy:.2f} x); waiting for all: {control * 1000:.0f} ms",
    )
    assert degraded < _NODE_TIMEOUT / 2
    assert control >= _NODE_TIMEOUT


async def acquire_p50(locks: Locks) -> float:
    times = []
    for number in range(_RUNS):
        began = time.perf_counter()
        lease = await locks.try_acquire(f"name-{number}")
        times.append(time.perf_counter() - began)
        assert lease is not None
        await lease.release()
    return statistics.median(times)


async def wait_for_all(nodes: Nodes) -> float:
    """A Redlock that hears every node out, as most do."""

    async def set_on(url: str) -> None:
        async with plain_client(url) as client:
            await client.set("naive", "mine", nx=True, px=1000)

    began = time.perf_counter()
    votes = (asyncio.wait_for(set_on(url), _NODE_TIMEOUT) for url in nodes.urls)
    await asyncio.gather(*votes, return_exceptions=True)
    return time.perf_counter() - began


async def test_a_frozen_node_wakes_up_and_runs_an_old_acquire(
    redlock: Nodes, record_fault: RecordFault
) -> None:
    """It may keep the leftover for one ttl at most; the lock works on meanwhile."""
    frozen = redlock.servers[0]
    async with open_locks("redlock", redlock.urls, node_timeout=2) as locks:
        async with locks.hold("warm-up"):
            pass
        frozen.freeze()
        fences = []
        for _ in range(5):
            async with locks.hold("name", ttl=20, timeout=HANG) as lease:
                fences.append(lease.fence)
        frozen.thaw()
        async with locks.hold("name", ttl=20, timeout=HANG) as lease:
            fences.append(lease.fence)
        left = await ask(frozen.url, "PTTL", lock_key("name"))
        elsewhere = Nodes("redlock", redlock.servers[1:])
        await elsewhere.none_left()
    record_fault(
        "a frozen node wakes up and runs old acquires",
        "redlock",
        runs=5,
        violations=int(left == _NO_EXPIRY) + int(fences != sorted(set(fences))),
        control=f"leftover on that node for {max(left, 0)} ms, bounded by the ttl of 20 s",
    )
    assert left != _NO_EXPIRY
    assert left <= 20_000
    assert fences == sorted(set(fences))


async def test_a_clock_jump_of_one_voter_can_grant_twice(
    redlock: Nodes, record_fault: RecordFault
) -> None:
    """The documented limit of Redlock: two nodes were away, and one of the voters forgot."""
    servers = redlock.servers
    async with (
        open_locks("redlock", redlock.urls) as locks,
        open_locks("redlock", redlock.urls) as others,
    ):
        for server in servers[3:]:
            server.kill()
        first = await locks.try_acquire("name", ttl=60)
        assert first is not None
        for server in servers[3:]:
            server.restart()
        refused = await others.try_acquire("name", ttl=60)
        await Nodes("lua", servers[2:3]).expire("name")
        second = await others.try_acquire("name", ttl=60)
        assert second is not None
    record_fault(
        "clock jump of the one voter two quorums share",
        "redlock",
        runs=1,
        violations=int(second.fence <= first.fence),
        control="documented: it is granted twice; the fences stay in order",
    )
    assert refused is None, "without the jump the nodes that came back are no majority"
    assert second.fence > first.fence


async def test_a_minority_grant_is_given_back(redlock: Nodes) -> None:
    """Three nodes hold another token, so two grants are not enough and must not stay."""
    for server in redlock.servers[:3]:
        await ask(server.url, "SET", lock_key("name"), "somebody else", "PX", 600_000)
    async with open_locks("redlock", redlock.urls) as locks:
        assert await locks.try_acquire("name") is None

        async def given_back() -> bool:
            return await redlock.holders("name") == [b"somebody else"] * 3

        await until(given_back, what="the end of two grants of five")


async def test_split_votes_end(redlock: Nodes) -> None:
    """Many processes ask for a free lock at the same moment; every one of them gets its turn."""
    async with asyncio.timeout(HANG):
        fences = await asyncio.gather(*(_hold_once(redlock) for _ in range(8)))
    assert len(set(fences)) == 8


async def _hold_once(nodes: Nodes) -> int:
    async with (
        open_locks("redlock", nodes.urls) as locks,
        locks.hold("name", ttl=60, timeout=HANG) as lease,
    ):
        return lease.fence


@pytest.mark.slow
async def test_the_fence_outgrows_every_voter(redlock: Nodes) -> None:
    """The highest fence is on a node that misses the vote; the next grant goes beyond it."""
    async with open_locks("redlock", redlock.urls, node_timeout=1) as locks:
        async with locks.hold("name") as lease:
            first = lease.fence
        for server in redlock.servers[:2]:
            server.freeze()
        async with locks.hold("name", timeout=HANG) as lease:
            second = lease.fence
        for server in redlock.servers[:2]:
            server.thaw()
        for server in redlock.servers[3:]:
            server.freeze()
        async with locks.hold("name", timeout=HANG) as lease:
            assert first < second < lease.fence
        redlock.thaw()


async def test_a_lock_held_on_a_minority_is_lost(redlock: Nodes) -> None:
    async with open_locks("redlock", redlock.urls) as locks:
        lease = await locks.try_acquire("name", ttl=60)
        assert lease is not None
        await redlock.held_everywhere("name")
        for server in redlock.servers[:2]:
            await ask(server.url, "DEL", lock_key("name"))
        await lease.extend()
        await ask(redlock.servers[2].url, "DEL", lock_key("name"))
        with pytest.raises(LockLost, match="gone"):
            await lease.extend()


@pytest.mark.slow
async def test_waiting_for_a_held_lock_is_quiet(redlock: Nodes, clock: Clock) -> None:
    async with (
        open_locks("redlock", redlock.urls) as locks,
        open_locks("redlock", redlock.urls) as others,
    ):
        assert await locks.try_acquire("name", ttl=60) is not None
        waiting = asyncio.create_task(_wait(others, seconds=30))
        await redlock.heard_by("name")
        await clock.turn()  # it looks once more when it is sure to hear of a release
        before = await _evals(redlock)
        await redlock.pass_time(clock, 28, step=2)
        asked_meanwhile = await _evals(redlock) - before
        await clock.advance(3)
        with pytest.raises(LockTimeout):
            await asyncio.wait_for(waiting, HANG)
        asked = await _evals(redlock) - before
    assert asked_meanwhile <= len(redlock.servers)
    assert asked <= 2 * len(redlock.servers), "and once at the end"


async def _wait(locks: Locks, *, seconds: float) -> None:
    async with locks.hold("name", timeout=seconds):
        pytest.fail("entered")


async def _evals(nodes: Nodes) -> int:
    calls = 0
    for url in nodes.urls:
        async with plain_client(url) as client:
            statistics_ = await client.info("commandstats")
            calls += statistics_.get("cmdstat_evalsha", {}).get("calls", 0)
    return calls
