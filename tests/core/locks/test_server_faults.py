"""Servers that freeze, die, fill up or forget, while locks are held or asked for."""

import asyncio
import time
from itertools import pairwise

import pytest
from redis.exceptions import NoScriptError

from app.core.locks import LockLost, Locks, LockTimeout, LockUnavailable
from app.core.locks.scripts import RELEASE
from tests.core.locks.conftest import RecordFault
from tests.core.locks.nodes import (
    Nodes,
    ask,
    fence_key,
    lock_key,
    open_locks,
    plain_client,
    settle,
)

_SCRIPTS = ("eval", "evalsha")


async def hold_until_told(locks: Locks, *, ttl: float, fault: "Fault") -> float:
    """Hold while a fault happens; how long before the latest possible deadline we were told."""
    told_with_left = 0.0

    async def hold() -> None:
        nonlocal told_with_left
        async with locks.hold("name", ttl=ttl, timeout=0) as lease:
            fault.happen()
            try:
                await asyncio.sleep(3 * ttl)
            except asyncio.CancelledError:
                # The servers are gone, so no renewal has moved this since the fault, or only one.
                told_with_left = lease.renewed + ttl - time.monotonic()
                raise

    with pytest.raises(LockLost, match="unreachable"):
        await hold()
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
    nodes: Nodes, locks: Locks, action: str, record_fault: RecordFault
) -> None:
    ttl = 0.8
    left = await hold_until_told(locks, ttl=ttl, fault=Fault(nodes, action))
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


async def test_majority_gone(nodes: Nodes, locks: Locks, record_fault: RecordFault) -> None:
    """One killed, the rest of the majority frozen: an error in time, and nothing left behind."""
    gone = nodes.majority
    gone[0].kill()
    for server in gone[1:]:
        server.freeze()
    patience, node_timeout = 0.3, 0.5
    began = time.monotonic()
    with pytest.raises(LockUnavailable) as caught:
        async with locks.hold("name", timeout=patience):
            pytest.fail("entered")
    took = time.monotonic() - began
    assert caught.value.__cause__ is not None
    await settle()
    live = nodes.urls[len(gone) :]
    leftovers = sum([await ask(url, "EXISTS", "test:lock:{0}:held:name") for url in live])
    record_fault(
        "majority gone (one killed, the others frozen)",
        nodes.strategy,
        runs=1,
        violations=leftovers + int(took > patience + 2 * node_timeout),
        control=f"timeout {patience} s, failed after {took:.2f} s, {leftovers} keys left",
    )
    assert took < patience + 2 * node_timeout
    assert leftovers == 0
    nodes.heal()
    async with locks.hold("name", timeout=2):
        pass


@pytest.mark.slow
async def test_an_outage_shorter_than_the_timeout_is_waited_out(nodes: Nodes, locks: Locks) -> None:
    for server in nodes.majority:
        server.freeze()

    async def thaw() -> None:
        await asyncio.sleep(0.6)
        for server in nodes.majority:
            server.thaw()

    thawing = asyncio.create_task(thaw())
    async with locks.hold("name", timeout=5):
        pass
    await thawing
    await settle(0.2)
    assert await nodes.lock_keys() == 0, "the frozen servers ran our old attempts, and undid them"


@pytest.mark.slow
async def test_a_short_outage_while_held_is_survived(nodes: Nodes, locks: Locks) -> None:
    async with locks.hold("name", ttl=0.9) as lease:
        for server in nodes.majority:
            server.freeze()
        await asyncio.sleep(0.45)
        for server in nodes.majority:
            server.thaw()
        await asyncio.sleep(0.6)
        lease.check()


async def test_out_of_memory(nodes: Nodes, locks: Locks, record_fault: RecordFault) -> None:
    lease = await locks.try_acquire("held before", ttl=5)
    assert lease is not None
    await nodes.on_all("CONFIG", "SET", "maxmemory", "1mb")
    await nodes.on_all("CONFIG", "SET", "maxmemory-policy", "noeviction")
    with pytest.raises(LockUnavailable) as caught:
        async with locks.hold("name", timeout=0.2):
            pytest.fail("entered")
    await lease.extend()
    released = await lease.release()
    await settle()
    orphans = await nodes.lock_keys()
    record_fault(
        "server out of memory",
        nodes.strategy,
        runs=1,
        violations=orphans + int(not released),
        control=f"raised LockUnavailable from {type(caught.value.__cause__).__name__}",
    )
    assert released
    assert orphans == 0


@pytest.mark.slow
async def test_script_flush(nodes: Nodes, locks: Locks, record_fault: RecordFault) -> None:
    async with locks.hold("name", ttl=0.6) as lease:
        for _ in range(6):
            await nodes.on_all("SCRIPT", "FLUSH")
            await asyncio.sleep(0.15)
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
    nodes: Nodes, locks: Locks, record_fault: RecordFault
) -> None:
    ttl = 0.9
    began = time.monotonic()

    async def hold() -> None:
        async with locks.hold("name", ttl=ttl):
            await nodes.evict("name")
            await asyncio.sleep(3)

    with pytest.raises(LockLost, match="gone"):
        await hold()
    took = time.monotonic() - began
    record_fault(
        "the key is deleted while held",
        nodes.strategy,
        runs=1,
        violations=int(took >= ttl),
        control=f"told {took:.2f} s after the grant, ttl {ttl} s",
    )
    assert took < ttl / 2


async def test_a_clock_that_jumps_frees_the_lock_but_keeps_the_fences_in_order(
    nodes: Nodes, locks: Locks, others: Locks, record_fault: RecordFault
) -> None:
    """No lease survives this, and ours does not either: only the fence protects the data.

    A server's clock cannot be moved from here, so its effect is: the lock expires at once.
    """
    first = await locks.try_acquire("name", ttl=5)
    assert first is not None
    for server in nodes.majority:
        await ask(server.url, "PEXPIRE", "test:lock:{0}:held:name", 1)
    await asyncio.sleep(0.01)
    second = await others.try_acquire("name", ttl=5)
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
    async with locks.hold("name"):
        for url in nodes.urls:
            for key in await ask(url, "KEYS", "test:lock:*"):
                assert await ask(url, "PTTL", key) > 0
    for url in nodes.urls:
        assert await ask(url, "KEYS", "test:lock:*") == [fence_key("name").encode()]


@pytest.mark.slow
async def test_wrong_rights_fail_at_once(nodes: Nodes) -> None:
    await nodes.on_all("ACL", "SETUSER", "nobody", "on", ">secret", "-@all", "+hello", "+client")
    urls = [url.replace("redis://", "redis://nobody:secret@") for url in nodes.urls]
    async with open_locks(nodes.strategy, urls) as locks:
        began = time.monotonic()
        with pytest.raises(LockUnavailable, match=r"permission|not answer|not allowed"):
            async with locks.hold("name", timeout=0.5):
                pytest.fail("entered")
        if nodes.strategy == "lua":
            assert time.monotonic() - began < 0.3, "waiting cannot help"
    await nodes.on_all("ACL", "DELUSER", "nobody")


async def test_a_key_that_somebody_set_by_hand_is_not_asked_for_again_and_again(
    single: Nodes,
) -> None:
    [url] = single.urls
    async with open_locks("lua", [url]) as locks, plain_client(url) as client:
        await client.set(lock_key("name"), "an operator")
        await client.config_resetstat()
        with pytest.raises(LockTimeout):
            async with locks.hold("name", timeout=0.6):
                pytest.fail("entered")
        calls = await client.info("commandstats")
        assert sum(calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in _SCRIPTS) <= 5
        waiting = asyncio.create_task(_enter(locks))
        await asyncio.sleep(0.1)
        await client.delete(lock_key("name"))
        await waiting


async def _enter(locks: Locks) -> None:
    async with locks.hold("name", ttl=0.5, timeout=5):
        pass


async def test_the_default_wait_is_for_the_holder(locks: Locks, others: Locks) -> None:
    """LockUnavailable is only for servers that do not answer."""
    async with locks.hold("name"):
        with pytest.raises(LockTimeout) as caught:
            async with others.hold("name", timeout=0.05):
                pytest.fail("entered")
    assert not isinstance(caught.value, LockUnavailable)
