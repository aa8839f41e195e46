"""Servers that freeze, die, fill up or forget, while locks are held or asked for."""

import asyncio
from itertools import pairwise

import pytest
from redis.exceptions import NoScriptError

from app.core.locks import LockLost, Locks, LockTimeout, LockUnavailable
from app.core.locks.scripts import RELEASE
from devservers.waiting import HANG, until
from tests.core.locks.clock import Clock
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import (
    Nodes,
    ask,
    fence_key,
    lock_key,
    open_locks,
    plain_client,
    renewed,
)
from tests.core.locks.values import metric

_SCRIPTS = ("eval", "evalsha")


async def hold_until_told(locks: Locks, *, ttl: float, fault: "Fault", clock: Clock) -> float:
    """Hold while a fault happens; how long before the latest possible deadline we were told."""
    told_with_left = 0.0
    held = asyncio.Event()

    async def hold() -> None:
        nonlocal told_with_left
        async with locks.hold("name", ttl=ttl, timeout=0) as lease:
            held.set()
            try:
                await asyncio.sleep(2 * ttl)
            except asyncio.CancelledError:
                # The servers are gone, so no renewal has moved this since the fault.
                told_with_left = lease.renewed + ttl - clock()
                raise

    holding = asyncio.create_task(hold())
    await held.wait()
    with clock.stopped():
        fault.happen()
        await clock.advance_until(holding.done, step=0.05, most=2 * ttl)
    with pytest.raises(LockLost, match="unreachable"):
        await holding
    return told_with_left


class Fault:
    def __init__(self, nodes: Nodes, action: str) -> None:
        self._nodes = nodes
        self._action = action

    def happen(self) -> None:
        for server in self._nodes.majority:
            getattr(server, self._action)()


@pytest.mark.slow
@pytest.mark.parametrize("action", ["freeze", "kill"])
async def test_the_holder_is_told_before_the_deadline(
    nodes: Nodes, action: str, clock: Clock, record_fault: RecordFault
) -> None:
    ttl = 10
    async with open_locks(nodes.strategy, nodes.urls, node_timeout=1) as locks:
        left = await hold_until_told(locks, ttl=ttl, fault=Fault(nodes, action), clock=clock)
        nodes.heal()
    control = await _hold_with_redis_py(nodes, ttl=0.3, fault=Fault(nodes, action))
    record_fault(
        f"{action} a majority of the servers while held",
        nodes.strategy,
        runs=1,
        violations=int(left <= 0),
        control=f"told {left * 1000:.0f} ms before the end of a ttl of {ttl} s; "
        f"redis-py's Lock: {'told' if control else 'never told'}",
    )
    assert 0 < left < ttl / 3
    assert not control


async def _hold_with_redis_py(nodes: Nodes, *, ttl: float, fault: Fault) -> bool:
    """Whether the body of redis-py's Lock hears of the loss while it runs."""
    async with plain_client(nodes.urls[0]) as client:
        lock = client.lock("naive", timeout=ttl)
        assert await lock.acquire()
        fault.happen()
        try:
            await asyncio.sleep(2 * ttl)
        except asyncio.CancelledError:
            return True
        return False


async def test_majority_gone(nodes: Nodes, clock: Clock, record_fault: RecordFault) -> None:
    """One killed, the rest of the majority frozen: an error in time, and nothing left behind."""
    gone = nodes.majority
    patience, node_timeout = 3, 5
    async with open_locks(nodes.strategy, nodes.urls, node_timeout=node_timeout) as locks:
        gone[0].kill()
        for server in gone[1:]:
            server.freeze()
        asking = asyncio.create_task(_enter(locks, seconds=patience))
        with clock.stopped():
            took = await clock.advance_until(asking.done, step=0.1, most=60)
        with pytest.raises(LockUnavailable) as caught:
            await asking
        assert caught.value.__cause__ is not None
        await Nodes(nodes.strategy, nodes.servers[len(gone) :]).none_left()
        nodes.heal()
        async with locks.hold("name", timeout=HANG):
            pass
    record_fault(
        "majority gone (one killed, the others frozen)",
        nodes.strategy,
        runs=1,
        violations=int(took > patience + 2 * node_timeout),
        control=f"timeout {patience} s, failed after {took:.2f} s, nothing left",
    )
    assert took < patience + 2 * node_timeout


async def test_an_outage_shorter_than_the_timeout_is_waited_out(nodes: Nodes) -> None:
    async with open_locks(nodes.strategy, nodes.urls, node_timeout=1) as locks:
        failures = node_errors(nodes)
        for server in nodes.majority:
            server.freeze()
        waiting = asyncio.create_task(_enter(locks, seconds=HANG, ttl=60))
        await until(lambda: node_errors(nodes) > failures, what="an attempt that failed")
        for server in nodes.majority:
            server.thaw()
        await waiting
        # The frozen servers ran our old attempts, and undid them.
        await nodes.none_left()


async def test_a_short_outage_while_held_is_survived(nodes: Nodes, clock: Clock) -> None:
    async with (
        open_locks(nodes.strategy, nodes.urls, node_timeout=1) as locks,
        locks.hold("name", ttl=60) as lease,
    ):
        failures = metric("lock_renewals_total", outcome="failed")
        before = lease.renewed
        for server in nodes.majority:
            server.freeze()
        await clock.advance(21)
        await until(
            lambda: metric("lock_renewals_total", outcome="failed") > failures,
            what="a renewal that failed",
        )
        for server in nodes.majority:
            server.thaw()
        await clock.advance(6)
        await renewed(lease, after=before)
        lease.check()


async def test_out_of_memory(nodes: Nodes, locks: Locks, record_fault: RecordFault) -> None:
    lease = await locks.try_acquire("held before", ttl=60)
    assert lease is not None
    await nodes.on_all("CONFIG", "SET", "maxmemory", "1")
    await nodes.on_all("CONFIG", "SET", "maxmemory-policy", "noeviction")
    with pytest.raises(LockUnavailable) as caught:
        await _enter(locks, seconds=0.2)
    await lease.extend()
    released = await lease.release()
    await nodes.none_left()
    record_fault(
        "server out of memory",
        nodes.strategy,
        runs=1,
        violations=int(not released),
        control=f"raised LockUnavailable from {type(caught.value.__cause__).__name__}",
    )
    assert released


async def test_script_flush(
    nodes: Nodes, locks: Locks, clock: Clock, record_fault: RecordFault
) -> None:
    async with locks.hold("name", ttl=60) as lease:
        for _ in range(6):
            await nodes.on_all("SCRIPT", "FLUSH")
            before = lease.renewed
            await clock.advance(20)
            await renewed(lease, after=before)
        lease.check()
    await nodes.on_all("SCRIPT", "FLUSH")
    async with locks.hold("name"):
        pass
    await nodes.on_all("SCRIPT", "FLUSH")
    async with plain_client(nodes.urls[0]) as client:
        with pytest.raises(NoScriptError):
            await client.execute_command(*RELEASE.by_digest(["key"], ["token", "channel"]))
    record_fault(
        "SCRIPT FLUSH while held",
        nodes.strategy,
        runs=7,
        violations=0,
        control="EVALSHA alone: refused, the script is unknown",
    )


async def test_a_deleted_key_is_noticed_at_the_next_renewal(
    nodes: Nodes, locks: Locks, clock: Clock, record_fault: RecordFault
) -> None:
    ttl = 60
    held = asyncio.Event()

    async def hold() -> None:
        async with locks.hold("name", ttl=ttl):
            held.set()
            await asyncio.sleep(10 * ttl)

    holding = asyncio.create_task(hold())
    await held.wait()
    await nodes.held_by_a_majority("name")
    await nodes.evict("name")
    await clock.advance(ttl / 3 - 5)
    assert not holding.done()
    await clock.advance(5)
    with pytest.raises(LockLost, match="gone"):
        await asyncio.wait_for(holding, HANG)
    record_fault(
        "the key is deleted while held",
        nodes.strategy,
        runs=1,
        violations=0,
        control=f"told a third of the ttl ({ttl} s) after the grant",
    )


async def test_a_clock_that_jumps_frees_the_lock_but_keeps_the_fences_in_order(
    nodes: Nodes, locks: Locks, others: Locks, record_fault: RecordFault
) -> None:
    """No lease survives this, and ours does not either: only the fence protects the data.

    A server's clock cannot be moved from here, so its effect is: the lock expires at once.
    """
    first = await locks.try_acquire("name", ttl=60)
    assert first is not None
    await nodes.held_everywhere("name")  # a late vote would be one that did not expire
    await Nodes(nodes.strategy, nodes.majority).expire("name")
    second = await others.try_acquire("name", ttl=60)
    assert second is not None
    assert first.remaining() > 0, "granted twice, as documented"
    record_fault(
        "clock jump of a majority of the voters",
        nodes.strategy,
        runs=1,
        violations=int(second.fence <= first.fence),
        control="documented: it is granted twice; the fences stay in order",
    )
    assert second.fence > first.fence


async def test_fences_grow_on_when_the_stored_ones_are_gone(
    nodes: Nodes, locks: Locks, record_fault: RecordFault
) -> None:
    fences, counted = [], []
    for _ in range(5):
        async with locks.hold("name") as lease:
            fences.append(lease.fence)
        counted.append(await ask(nodes.urls[0], "INCR", "naive"))
        await nodes.on_all("DEL", fence_key("name"), "naive")
    disorder, control = (
        sum(later <= earlier for earlier, later in pairwise(numbers))
        for numbers in (fences, counted)
    )
    record_fault(
        "the stored fence is gone",
        nodes.strategy,
        runs=len(fences),
        violations=disorder,
        control=f"a counter with INCR: {control} of {len(counted)} did not grow",
    )
    assert disorder == 0
    assert control > 0


async def test_no_key_lives_for_ever(nodes: Nodes, locks: Locks) -> None:
    async with locks.hold("name", ttl=60):
        for url in nodes.urls:
            for key in await ask(url, "KEYS", "test:lock:*"):
                assert await ask(url, "PTTL", key) > 0
    await nodes.none_left()
    for url in nodes.urls:
        assert await ask(url, "KEYS", "test:lock:*") == [fence_key("name").encode()]


@pytest.mark.slow
async def test_wrong_rights_fail_at_once(nodes: Nodes) -> None:
    await nodes.on_all("ACL", "SETUSER", "nobody", "on", ">secret", "-@all", "+hello", "+client")
    urls = [url.replace("redis://", "redis://nobody:secret@") for url in nodes.urls]
    async with open_locks(nodes.strategy, urls) as locks:
        with pytest.raises(LockUnavailable, match=r"permission|not answer|not allowed"):
            async with asyncio.timeout(HANG):  # waiting cannot help
                await _enter(locks, seconds=600 if nodes.strategy == "lua" else 0.5)
    await nodes.on_all("ACL", "DELUSER", "nobody")


async def test_a_key_that_somebody_set_by_hand_is_not_asked_for_again_and_again(
    single: Nodes, clock: Clock
) -> None:
    [url] = single.urls

    async def calls() -> int:
        found = await ask(url, "INFO", "commandstats")
        return sum(found.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in _SCRIPTS)

    async with open_locks("lua", [url]) as locks:
        await ask(url, "SET", lock_key("name"), "an operator")
        waiting = asyncio.create_task(_enter(locks, seconds=600, ttl=10))
        await single.heard_by("name")
        await clock.turn()
        before = await calls()
        await single.pass_time(clock, 10)
        assert await calls() - before <= 3
        await ask(url, "DEL", lock_key("name"))
        await clock.advance(11)
        await asyncio.wait_for(waiting, HANG)


async def _enter(locks: Locks, *, seconds: float, ttl: float = 10) -> None:
    async with locks.hold("name", ttl=ttl, timeout=seconds):
        pass


def node_errors(nodes: Nodes) -> float:
    labels = ["redis"] if nodes.strategy == "lua" else [str(n) for n in range(len(nodes.servers))]
    kinds = ("TimeoutError", "ConnectionError")
    return sum(metric("lock_node_errors_total", node=n, error=k) for n in labels for k in kinds)


async def test_the_default_wait_is_for_the_holder(locks: Locks, others: Locks) -> None:
    """LockUnavailable is only for servers that do not answer."""
    async with locks.hold("name"):
        with pytest.raises(LockTimeout) as caught:
            async with others.hold("name", timeout=0.05):
                pytest.fail("entered")
    assert not isinstance(caught.value, LockUnavailable)
