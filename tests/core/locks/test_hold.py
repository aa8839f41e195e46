"""What holding a lock means to the code inside, on both strategies."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from app.core.locks import Lease, LockError, LockLost, LockReentered, Locks, LockTimeout
from app.core.locks.hold import Hold
from tests.core.locks.nodes import Nodes, ask, lock_key

OpenLocks = Callable[..., Awaitable[Locks]]

_NO_SUCH_KEY = -2


async def test_excludes_others_and_gives_back(nodes: Nodes, locks: Locks, others: Locks) -> None:
    async with locks.hold("name") as lease:
        assert lease.remaining() > 9
        assert await others.try_acquire("name") is None
        lease.check()
    assert await nodes.none_left()
    async with others.hold("name", timeout=5):
        pass


async def test_after_the_block_the_lease_is_over(locks: Locks) -> None:
    async with locks.hold("name") as lease:
        pass
    assert lease.remaining() == 0
    with pytest.raises(LockLost, match="released"):
        lease.check()


async def test_timeout_zero_tries_once(locks: Locks, others: Locks) -> None:
    async with locks.hold("name", timeout=0):
        began = time.monotonic()
        with pytest.raises(LockTimeout):
            async with others.hold("name", timeout=0):
                pytest.fail("both hold it")
        assert time.monotonic() - began < 0.2


async def test_timeout_is_kept(locks: Locks, others: Locks) -> None:
    async with locks.hold("name"):
        for waiter in (locks, others):
            began = time.monotonic()
            with pytest.raises(LockTimeout):
                await asyncio.create_task(_enter(waiter, "name", timeout=0.2))
            assert 0.19 < time.monotonic() - began < 0.4


async def test_a_waiter_gets_it_in_time(locks: Locks, others: Locks) -> None:
    holding = asyncio.Event()

    async def hold_for_a_while() -> None:
        async with locks.hold("name"):
            holding.set()
            await asyncio.sleep(0.2)

    task = asyncio.create_task(hold_for_a_while())
    await holding.wait()
    async with others.hold("name", timeout=5):
        assert task.done()


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
        waiter = asyncio.create_task(_enter(locks, "name", timeout=5))
        await asyncio.sleep(0.05)
    await waiter


@pytest.mark.slow
async def test_renewed_for_as_long_as_it_is_held(nodes: Nodes, locks: Locks, others: Locks) -> None:
    async with locks.hold("name", ttl=0.3) as lease:
        for _ in range(10):
            await asyncio.sleep(0.1)
            lease.check()
            assert await others.try_acquire("name") is None


async def test_a_lost_lock_cancels_the_body(nodes: Nodes, locks: Locks) -> None:
    leases: list[Lease] = []

    async def hold() -> None:
        async with locks.hold("name", ttl=0.6) as lease:
            leases.append(lease)
            await nodes.evict("name")
            await asyncio.sleep(5)

    with pytest.raises(LockLost, match="gone"):
        await hold()
    assert leases[0].remaining() == 0


async def test_a_lost_lock_is_never_taken_again(nodes: Nodes, locks: Locks, others: Locks) -> None:
    thieves: list[Lease | None] = []

    async def hold() -> None:
        async with locks.hold("name", ttl=0.6):
            await nodes.evict("name")
            thieves.append(await others.try_acquire("name"))
            await asyncio.sleep(5)

    with pytest.raises(LockLost):
        await hold()
    [thief] = thieves
    assert thief is not None
    thief.check()
    assert await thief.release()


async def test_max_hold(another: OpenLocks) -> None:
    locks = await another(max_hold=0.4)
    began = time.monotonic()
    with pytest.raises(LockLost, match="max_hold"):
        async with locks.hold("name", ttl=0.3):
            await asyncio.sleep(5)
    assert 0.35 < time.monotonic() - began < 0.6


async def test_the_body_may_end_well_and_still_have_lost(nodes: Nodes, locks: Locks) -> None:
    async def hold() -> None:
        async with locks.hold("name", ttl=0.5):
            await nodes.evict("name")
            with suppress(asyncio.CancelledError):  # which cannot hide the loss
                await asyncio.sleep(5)

    with pytest.raises(LockLost):
        await hold()
    assert _cancel_requests() == 0
    await asyncio.sleep(0)


async def test_an_error_of_the_body_goes_first(nodes: Nodes, locks: Locks) -> None:
    async def hold() -> None:
        async with locks.hold("name", ttl=0.5):
            await nodes.evict("name")
            try:
                await asyncio.sleep(5)
            finally:
                raise KeyError

    with pytest.raises(KeyError):
        await hold()
    assert _cancel_requests() == 0


async def test_a_cancellation_from_outside_stays_one(nodes: Nodes, locks: Locks) -> None:
    async def hold() -> None:
        async with locks.hold("name"):
            await asyncio.sleep(5)

    task = asyncio.create_task(hold())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await nodes.none_left()


async def test_cancelled_and_lost_at_once_is_cancelled(nodes: Nodes, locks: Locks) -> None:
    async def hold() -> None:
        async with locks.hold("name") as lease:
            task = asyncio.current_task()
            assert task is not None
            lease.lose("gone")
            task.cancel()
            await asyncio.sleep(5)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(hold())


async def test_cancelled_and_lost_as_the_body_ends_leaves_nothing(
    nodes: Nodes, locks: Locks
) -> None:
    async def hold() -> None:
        async with locks.hold("name", ttl=20) as lease:
            task = asyncio.current_task()
            assert task is not None
            lease.lose("max_hold")
            task.cancel()

    async def hold_twice() -> None:
        with suppress(asyncio.CancelledError):
            await hold()
        async with locks.hold("name", timeout=2):  # no LockReentered, and no wait for the ttl
            pass

    await asyncio.create_task(hold_twice())
    assert await nodes.none_left()


async def test_a_block_may_end_in_another_task(locks: Locks) -> None:
    """As in a fixture, or in a generator that is closed."""
    hold = locks.hold("name")
    await hold.__aenter__()
    await asyncio.create_task(_leave(hold))
    async with locks.hold("name", timeout=2):
        pass


async def test_extend(nodes: Nodes, locks: Locks) -> None:
    lease = await locks.try_acquire("name", ttl=1)
    assert lease is not None
    await asyncio.sleep(0.3)
    before = lease.remaining()
    await lease.extend()
    assert lease.remaining() > before + 0.2
    await nodes.evict("name")
    with pytest.raises(LockLost, match="gone"):
        await lease.extend()
    assert await nodes.lock_keys() == 0


async def test_release_twice(nodes: Nodes, locks: Locks) -> None:
    lease = await locks.try_acquire("name")
    assert lease is not None
    assert await lease.release()
    assert not await lease.release()
    assert await nodes.none_left()


async def test_a_lease_that_ran_out_says_so(locks: Locks) -> None:
    lease = await locks.try_acquire("name", ttl=0.5)
    assert lease is not None
    await asyncio.sleep(0.52)
    with pytest.raises(LockLost, match="expired"):
        lease.check()
    with pytest.raises(LockLost, match="expired"):
        await lease.extend()


async def test_the_lease_ends_before_the_lock_on_every_server(nodes: Nodes, locks: Locks) -> None:
    for _ in range(50):
        lease = await locks.try_acquire("name", ttl=5)
        assert lease is not None
        voters = 0
        for url in nodes.urls:
            left = lease.remaining()
            on_server = await ask(url, "PTTL", lock_key("name"))
            if on_server != _NO_SUCH_KEY:  # a node that was late to vote
                assert left * 1000 <= on_server
                voters += 1
        assert voters >= len(nodes.majority)
        await lease.release()


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
            await asyncio.sleep(5)
        return lease

    task = asyncio.create_task(hold())
    await held.wait()
    await locks.__aexit__(None, None, None)
    with pytest.raises(LockLost, match="closed"):
        await task
    assert await nodes.lock_keys() == 0
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
        async with locks.hold("name", ttl=20):
            held.set()
            try:
                await asyncio.sleep(5)
            finally:
                await asyncio.sleep(0.2)
                rolled_back = True

    task = asyncio.create_task(hold())
    await held.wait()
    await locks.__aexit__(None, None, None)
    assert rolled_back
    assert await nodes.lock_keys() == 0
    with pytest.raises(LockLost, match="closed"):
        await task


async def test_closing_tells_who_waits(another: OpenLocks, others: Locks) -> None:
    locks = await another()
    async with others.hold("name", ttl=20):
        waiting = [asyncio.create_task(_enter(locks, "name", timeout=20)) for _ in range(3)]
        await asyncio.sleep(0.1)
        await locks.__aexit__(None, None, None)
        async with asyncio.timeout(5):
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
