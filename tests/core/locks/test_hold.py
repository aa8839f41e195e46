"""What holding a lock means to the code inside, on both strategies.

Tests that once failed without a fault of the locks: leases of half a second, for which a node of a
quorum had 25 ms to vote; and `remaining()` was read before the server was asked for its time, so
that a pause between the two looked like a lease that outlives its lock.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from contextvars import ContextVar

import pytest

from app.core.locks import Lease, LockError, LockLost, LockReentered, Locks, LockTimeout
from app.core.locks.hold import Hold
from app.core.locks.node import Node
from app.core.locks.store import Claim
from devservers.waiting import HANG, until
from tests.core.locks.clock import Clock
from tests.core.locks.nodes import (
    PREFIX,
    Nodes,
    ask,
    lock_key,
    open_locks,
    plain_client,
    renewed,
)
from tests.core.locks.values import metric
from tests.support.faultproxy import FaultProxy

OpenLocks = Callable[..., Awaitable[Locks]]


async def test_excludes_others_and_gives_back(nodes: Nodes, locks: Locks, others: Locks) -> None:
    async with locks.hold("name") as lease:
        lease.check()
        assert await others.try_acquire("name") is None
        lease.check()
    await nodes.none_left()
    async with others.hold("name", timeout=HANG):
        pass


async def test_after_the_block_the_lease_is_over(locks: Locks) -> None:
    async with locks.hold("name") as lease:
        pass
    assert lease.remaining() == 0
    with pytest.raises(LockLost, match="released"):
        lease.check()


async def test_timeout_zero_tries_once(locks: Locks, others: Locks) -> None:
    async with locks.hold("name", timeout=0):
        refusals = metric("lock_refusals_total", reason="held")
        with pytest.raises(LockTimeout):
            async with others.hold("name", timeout=0):
                pytest.fail("both hold it")
        assert metric("lock_refusals_total", reason="held") == refusals + 1


async def test_timeout_is_kept(nodes: Nodes, locks: Locks, others: Locks, clock: Clock) -> None:
    lease = await locks.try_acquire("name", ttl=60)
    assert lease is not None
    for waiter in (locks, others):
        waiting = asyncio.create_task(_enter(waiter, "name", timeout=5))
        await clock.turn()
        if waiter is others:
            await nodes.heard_by("name")
        await clock.advance(4)
        assert not waiting.done()
        await clock.advance(1.1)
        with pytest.raises(LockTimeout):
            await asyncio.wait_for(waiting, HANG)


async def test_a_waiter_gets_it_when_the_holder_is_done(
    nodes: Nodes, locks: Locks, others: Locks
) -> None:
    done = False

    async def wait() -> None:
        async with others.hold("name", timeout=HANG):
            assert done

    async with locks.hold("name", ttl=60):
        waiting = asyncio.create_task(wait())
        await nodes.heard_by("name")
        done = True
    await waiting


async def test_fences_grow_from_grant_to_grant(locks: Locks, others: Locks) -> None:
    fences = []
    for turn in range(20):
        async with (locks, others)[turn % 2].hold("name") as lease:
            fences.append(lease.fence)
    assert fences == sorted(set(fences))


async def test_a_nested_hold_is_refused(locks: Locks) -> None:
    async with locks.hold("name"), locks.hold("other name"):
        with pytest.raises(LockReentered, match="'name'"):
            async with locks.hold("name"):
                pytest.fail("entered")
        with pytest.raises(LockReentered):
            await locks.try_acquire("name")
    async with locks.hold("name"):
        pass


async def test_another_task_may_wait_for_what_this_one_holds(locks: Locks) -> None:
    async with locks.hold("name"):
        waiter = asyncio.create_task(_enter(locks, "name", timeout=HANG))
        await asyncio.sleep(0)
    await waiter


async def test_renewed_for_as_long_as_it_is_held(
    nodes: Nodes, locks: Locks, others: Locks, clock: Clock
) -> None:
    """For four times its ttl by this process's clock; the servers are told that time has passed."""
    async with locks.hold("name", ttl=30) as lease:
        for _ in range(12):
            await nodes.on_all("PEXPIRE", lock_key("name"), 20_000)
            before = lease.renewed
            await clock.advance(10)
            await renewed(lease, after=before)
            lefts = await nodes.on_all("PTTL", lock_key("name"))
            assert sum(left > 20_000 for left in lefts) >= len(nodes.majority)
            lease.check()
            assert await others.try_acquire("name") is None


async def test_renewals_keep_nothing_of_the_request_that_held_first(
    single: Nodes, clock: Clock
) -> None:
    """They go on when it is over, for the leases of others."""
    request: ContextVar[str | None] = ContextVar("request", default=None)
    seen: list[str | None] = []

    class Watched(Node):
        async def extend(self, claims: Sequence[Claim]) -> list[bool | None]:
            seen.append(request.get())
            return await super().extend(claims)

    async with plain_client(single.urls[0]) as client:
        store = Watched(client, timeout=HANG)
        async with Locks(store, prefix=PREFIX, quarantine=0, max_ttl=60) as locks:
            request.set("first")
            async with locks.hold("name", ttl=30):
                await clock.advance(10)
                await until(lambda: seen, what="a renewal")
    assert seen[0] is None


async def test_a_lost_lock_cancels_the_body(nodes: Nodes, locks: Locks, clock: Clock) -> None:
    leases: list[Lease] = []

    async def hold() -> None:
        async with locks.hold("name", ttl=30) as lease:
            leases.append(lease)
            await nodes.evict("name")
            clock.jump(10)  # to the next renewal
            await asyncio.sleep(HANG)

    with pytest.raises(LockLost, match="gone"):
        await hold()
    assert leases[0].remaining() == 0


async def test_a_lost_lock_is_never_taken_again(
    nodes: Nodes, locks: Locks, others: Locks, clock: Clock
) -> None:
    thieves: list[Lease | None] = []

    async def hold() -> None:
        async with locks.hold("name", ttl=30):
            await nodes.evict("name")
            thieves.append(await others.try_acquire("name", ttl=60))
            clock.jump(10)
            await asyncio.sleep(HANG)

    with pytest.raises(LockLost):
        await hold()
    [thief] = thieves
    assert thief is not None
    thief.check()
    assert await thief.release()


async def test_max_hold(another: OpenLocks, clock: Clock) -> None:
    locks = await another(max_hold=40)

    async def hold() -> None:
        async with locks.hold("name", ttl=30) as lease:
            for _ in range(3):
                before = lease.renewed
                await clock.advance(10)
                await renewed(lease, after=before)
            lease.check()
            clock.jump(10)
            await asyncio.sleep(HANG)

    with pytest.raises(LockLost, match="max_hold"):
        await hold()


async def test_the_body_may_end_well_and_still_have_lost(
    nodes: Nodes, locks: Locks, clock: Clock
) -> None:
    async def hold() -> None:
        async with locks.hold("name", ttl=30):
            await nodes.evict("name")
            clock.jump(10)
            with suppress(asyncio.CancelledError):  # which cannot hide the loss
                await asyncio.sleep(HANG)

    with pytest.raises(LockLost):
        await hold()
    assert _cancel_requests() == 0
    await asyncio.sleep(0)


async def test_an_error_of_the_body_goes_first(nodes: Nodes, locks: Locks, clock: Clock) -> None:
    async def hold() -> None:
        async with locks.hold("name", ttl=30):
            await nodes.evict("name")
            clock.jump(10)
            try:
                await asyncio.sleep(HANG)
            finally:
                raise KeyError

    with pytest.raises(KeyError):
        await hold()
    assert _cancel_requests() == 0


async def test_a_cancellation_from_outside_stays_one(nodes: Nodes, locks: Locks) -> None:
    held = asyncio.Event()

    async def hold() -> None:
        async with locks.hold("name"):
            held.set()
            await asyncio.sleep(HANG)

    task = asyncio.create_task(hold())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await nodes.none_left()


async def test_cancelled_and_lost_at_once_is_cancelled(nodes: Nodes, locks: Locks) -> None:
    async def hold() -> None:
        async with locks.hold("name") as lease:
            task = asyncio.current_task()
            assert task is not None
            lease.lose("gone")
            task.cancel()
            await asyncio.sleep(HANG)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(hold())


async def test_cancelled_and_lost_as_the_body_ends_leaves_nothing(
    nodes: Nodes, locks: Locks
) -> None:
    async def hold() -> None:
        async with locks.hold("name", ttl=2 * HANG) as lease:
            task = asyncio.current_task()
            assert task is not None
            lease.lose("max_hold")
            task.cancel()

    async def hold_twice() -> None:
        with suppress(asyncio.CancelledError):
            await hold()
        async with locks.hold("name", timeout=HANG):  # no LockReentered, and no wait for the ttl
            pass

    await asyncio.wait_for(asyncio.create_task(hold_twice()), HANG)
    await nodes.none_left()


async def test_a_block_may_end_in_another_task(locks: Locks) -> None:
    """As in a fixture, or in a generator that is closed."""
    hold = locks.hold("name")
    await hold.__aenter__()
    await asyncio.create_task(_leave(hold))
    async with locks.hold("name", timeout=HANG):
        pass


async def test_extend(nodes: Nodes, locks: Locks, clock: Clock) -> None:
    lease = await locks.try_acquire("name", ttl=60)
    assert lease is not None
    clock.jump(30)
    before = lease.remaining()
    await lease.extend()
    assert lease.remaining() > before
    await nodes.evict("name")
    with pytest.raises(LockLost, match="gone"):
        await lease.extend()
    assert await nodes.lock_keys() == 0


async def test_release_twice(nodes: Nodes, locks: Locks) -> None:
    lease = await locks.try_acquire("name")
    assert lease is not None
    assert await lease.release()
    assert not await lease.release()
    await nodes.none_left()


async def test_a_lease_that_ran_out_says_so(locks: Locks, clock: Clock) -> None:
    lease = await locks.try_acquire("name", ttl=60)
    assert lease is not None
    clock.jump(60)
    with pytest.raises(LockLost, match="expired"):
        lease.check()
    with pytest.raises(LockLost, match="expired"):
        await lease.extend()


async def test_the_lease_ends_before_the_lock_on_every_server(nodes: Nodes) -> None:
    """The control counts from when the grant arrived, which replies come late enough to show."""
    naive_outlived = 0
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(FaultProxy(server.host, server.port))
            for server in nodes.servers
        ]
        urls = [proxy.url for proxy in proxies]
        locks = await stack.enter_async_context(open_locks(nodes.strategy, urls))
        for proxy in proxies:
            await proxy.delay(0.05)
        for _ in range(10):
            lease = await locks.try_acquire("name", ttl=60)
            assert lease is not None
            voters = 0
            for url in nodes.urls:
                on_server = await ask(url, "PTTL", lock_key("name")) / 1000
                # Read after the server's: a pause in between makes them smaller, not larger.
                left, naive = lease.remaining(), lease.granted + 60 - time.monotonic()
                if on_server > 0:  # otherwise a node that is late to vote
                    assert left <= on_server
                    naive_outlived += naive > on_server
                    voters += 1
            assert voters >= len(nodes.majority)
            await lease.release()
            await nodes.none_left()
    assert naive_outlived


async def test_a_hold_is_used_once(locks: Locks) -> None:
    hold = locks.hold("name")
    async with hold:
        pass
    with pytest.raises(RuntimeError, match="used once"):
        async with hold:
            pytest.fail("entered")


async def test_closing_ends_what_is_held(nodes: Nodes, another: OpenLocks) -> None:
    locks = await another()
    held = asyncio.Event()

    async def hold() -> Lease:
        async with locks.hold("name") as lease:
            held.set()
            await asyncio.sleep(HANG)
        return lease

    task = asyncio.create_task(hold())
    await held.wait()
    await locks.__aexit__(None, None, None)
    with pytest.raises(LockLost, match="closed"):
        await task
    await nodes.none_left()
    with pytest.raises(LockError, match="closed"):
        await locks.try_acquire("name")
    with pytest.raises(LockError, match="closed"):
        await locks.__aenter__()


async def test_closing_waits_for_bodies_that_clean_up(nodes: Nodes, another: OpenLocks) -> None:
    locks = await another()
    held = asyncio.Event()
    rolled_back = False

    async def hold() -> None:
        nonlocal rolled_back
        async with locks.hold("name", ttl=60):
            held.set()
            try:
                await asyncio.sleep(HANG)
            finally:
                await asyncio.sleep(0.05)
                rolled_back = True

    task = asyncio.create_task(hold())
    await held.wait()
    await locks.__aexit__(None, None, None)
    assert rolled_back
    await nodes.none_left()
    with pytest.raises(LockLost, match="closed"):
        await task


async def test_closing_tells_who_waits(nodes: Nodes, another: OpenLocks, others: Locks) -> None:
    locks = await another()
    async with others.hold("name", ttl=60):
        waiting = [asyncio.create_task(_enter(locks, "name", timeout=600)) for _ in range(3)]
        await nodes.heard_by("name")
        await locks.__aexit__(None, None, None)
        async with asyncio.timeout(HANG):
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LockError] * 3


async def _enter(locks: Locks, name: str, *, timeout: float) -> None:  # noqa: ASYNC109  # passed on
    async with locks.hold(name, timeout=timeout):
        pass


async def _leave(hold: Hold) -> None:
    await hold.__aexit__(None, None, None)


def _cancel_requests() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()
