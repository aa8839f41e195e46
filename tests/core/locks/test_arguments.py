"""Wrong arguments are refused at once, and say what was wrong."""

import math
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.locks import Locks
from app.core.locks.node import Node
from app.core.locks.redlock import RedlockStore
from tests.core.locks.nodes import Nodes, open_locks


@pytest.fixture
def locks() -> Locks:
    return Locks(Node(Redis()), prefix="test:lock", max_ttl=30)


@pytest.mark.parametrize("ttl", [0, -1, 0.05, 30.1, math.nan, math.inf, None, "5", True])
def test_ttl(locks: Locks, ttl: Any) -> None:
    with pytest.raises(ValueError, match="ttl is"):
        locks.hold("name", ttl=ttl)


@pytest.mark.parametrize("timeout", [-0.1, math.nan, math.inf, None, "5", False])
def test_timeout(locks: Locks, timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout is"):
        locks.hold("name", timeout=timeout)


@pytest.mark.parametrize("name", ["", None, 42, b"bytes", "x" * 513, "\ud800"])
def test_name(locks: Locks, name: Any) -> None:
    with pytest.raises(ValueError, match="the name of a lock"):
        locks.hold(name)


async def test_try_acquire_checks_too(locks: Locks) -> None:
    with pytest.raises(ValueError, match="ttl is"):
        await locks.try_acquire("name", ttl=0)
    with pytest.raises(ValueError, match="the name of a lock"):
        await locks.try_acquire("")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": ""}, "the name of a lock"),
        ({"prefix": "a{b}"}, "has a brace"),
        ({"max_ttl": 0}, "max_ttl is"),
        ({"max_hold": 0}, "max_hold is"),
        ({"quarantine": -1}, "quarantine is"),
        ({"fence_ttl": 1}, "fence_ttl is"),
    ],
)
def test_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Locks(Node(Redis()), **{"prefix": "test:lock", **options})


@pytest.mark.parametrize("nodes", [0, 1, 2, 4])
def test_redlock_needs_an_odd_number_of_nodes(nodes: int) -> None:
    with pytest.raises(ValueError, match=f"not {nodes}"):
        RedlockStore([Redis() for _ in range(nodes)])


@pytest.mark.parametrize("name", ["invoice:42", "with space", "{braces}", "ünïcödé", "x" * 512])
async def test_unusual_names_work(nodes: Nodes, name: str) -> None:
    async with (
        open_locks(nodes.strategy, nodes.urls) as locks,
        open_locks(nodes.strategy, nodes.urls) as others,
        locks.hold(name),
    ):
        assert await others.try_acquire(name) is None
