"""What Prometheus sees, and the dependency that hands the locks to routes.

`test_renewals_and_losses` once failed without a fault of the locks: it held a lock for 0.3 s at a
time, of which the nodes of a quorum had 15 ms to vote.
"""

import asyncio
from contextlib import suppress

import httpx2
import pytest
from fastapi import FastAPI

from app.core.locks import LockLost, Locks, LocksDependency, LockTimeout
from devservers.waiting import HANG, until
from tests.core.locks.clock import Clock
from tests.core.locks.nodes import Nodes, open_locks
from tests.core.locks.values import metric as value


async def test_acquire_wait_and_hold_times(nodes: Nodes, locks: Locks, others: Locks) -> None:
    names: tuple[tuple[str, dict[str, str]], ...] = (
        ("lock_acquire_seconds_count", {"outcome": "granted"}),
        ("lock_acquire_seconds_count", {"outcome": "refused"}),
        ("lock_acquire_seconds_count", {"outcome": "timeout"}),
        ("lock_wait_seconds_count", {}),
        ("lock_hold_seconds_count", {}),
        ("lock_refusals_total", {"reason": "held"}),
    )
    before = [value(name, **labels) for name, labels in names]
    async with locks.hold("name"):
        assert await others.try_acquire("name") is None
        with pytest.raises(LockTimeout):
            async with others.hold("name", timeout=0):
                pytest.fail("entered")
        waiting = asyncio.create_task(_hold(others))
        await nodes.heard_by("name")
    await waiting
    after = [value(name, **labels) for name, labels in names]
    granted, refused, timed_out, waited, held, refusals = (
        now - then for now, then in zip(after, before, strict=True)
    )
    assert (granted, refused, timed_out, waited, held) == (2, 1, 1, 1, 2)
    assert refusals >= 3


async def test_renewals_and_losses(nodes: Nodes, locks: Locks, clock: Clock) -> None:
    def renewals() -> float:
        return value("lock_renewals_total", outcome="renewed")

    before = renewals()
    gone = value("lock_losses_total", cause="gone")

    async def hold() -> None:
        async with locks.hold("name", ttl=30):
            await clock.advance(10)
            await until(lambda: renewals() > before, what="the renewal")
            await nodes.evict("name")
            clock.jump(10)
            await asyncio.sleep(HANG)

    with pytest.raises(LockLost):
        await hold()
    assert value("lock_losses_total", cause="gone") == gone + 1


async def test_node_errors_name_the_node(nodes: Nodes) -> None:
    label = "redis" if nodes.strategy == "lua" else "0"
    errors = value("lock_node_errors_total", node=label, error="ConnectionError")
    nodes.servers[0].kill()
    async with open_locks(nodes.strategy, nodes.urls, node_timeout=0.5) as locks:
        with suppress(LockTimeout):  # one node of five is not missed
            await _hold(locks, timeout=0.3)
    assert value("lock_node_errors_total", node=label, error="ConnectionError") > errors


async def test_a_route_gets_the_locks(locks: Locks, others: Locks) -> None:
    app = FastAPI()
    app.state.locks = locks

    @app.get("/free")
    async def free(locks: LocksDependency) -> bool:
        lease = await locks.try_acquire("name")
        return lease is not None and await lease.release()

    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/free")).json() is True
        async with others.hold("name"):
            assert (await client.get("/free")).json() is False


async def _hold(locks: Locks, *, timeout: float = HANG) -> None:  # noqa: ASYNC109  # passed on
    async with locks.hold("name", timeout=timeout):
        pass
