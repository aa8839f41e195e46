"""Random interleavings of reads, writes, failures and cancellations in two processes.

The truth is a number that only grows. Whoever writes it invalidates it afterwards, in one of three
ways. A read that starts after an invalidation has returned must not see a number from before it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.cache import CachePolicy
from app.core.cache import entry as entry_module
from app.core.cache import entry_codec as codec_module
from app.core.cache import store as store_module
from app.core.cache.entry import Entry, Miss
from app.core.cache.loading import LoadCoordinator
from app.core.cache.store import CacheStore
from devservers.waiting import until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import UNCHECKED_STORE, cache_of, lease_keys

SEEDS, STEPS, KEYS = 10, 60, 2
CONTROL_SEEDS = range(200)


class World:
    """One key's truth, read and written through two caches."""

    def __init__(self, key: int, policies: list[CachePolicy[int]], random: Random) -> None:
        self.key = key
        self.policies = policies
        self.random = random
        self.truth = 0
        self.floor = 0
        """The newest number whose invalidation has returned."""
        self.violations: list[str] = []
        self.reads = 0

    async def load(self) -> int:
        value = self.truth
        await asyncio.sleep(self.random.choice([0, 0, 0.001, 0.003, 0.008]))
        if self.random.random() < 0.15:
            raise OSError("the source is down")
        return value

    async def read(self, policy: CachePolicy[int]) -> None:
        floor = self.floor
        try:
            async with asyncio.timeout(self.random.choice([0.002, None, None, None])):
                found = await policy.get_or_load(self.key, self.load, tags=[f"tag:{self.key}"])
        except (OSError, TimeoutError):
            return
        self.reads += 1
        if found < floor:
            self.violations.append(f"read {found} after {floor} was announced")

    async def write(self, policy: CachePolicy[int]) -> None:
        self.truth = value = self.truth + 1
        ways: list[Callable[[], Awaitable[None]]] = [
            lambda: policy.invalidate(self.key),
            lambda: cache_of(policy).invalidate_tags(f"tag:{self.key}"),
            policy.clear,
        ]
        await self.random.choice(ways)()
        self.floor = max(self.floor, value)

    async def run(self) -> None:
        tasks = []
        for _ in range(STEPS):
            policy = self.random.choice(self.policies)
            act = self.write if self.random.random() < 0.2 else self.read
            tasks.append(asyncio.create_task(act(policy)))
            await asyncio.sleep(self.random.choice([0, 0, 0, 0.001, 0.002]))
        await asyncio.gather(*tasks)


async def violations(
    another: OpenCache, seeds: range, *, one_is_enough: bool = False
) -> tuple[list[str], int]:
    found: list[str] = []
    reads = 0
    caches = [await another(), await another()]
    for seed in seeds:
        random = Random(seed)
        policies = [
            cache.policy(
                f"seed-{seed}",
                int,
                ttl=random.choice([0.01, 10]),
                jitter=0,
                stale_while_revalidate=random.choice([0, 0.01, 10]),
                stale_if_error=random.choice([0, 10]),
                error_throttle=random.choice([0.005, 0.1]),
                error_patience=random.choice([0.001, 1]),
                lease_wait=random.choice([0.004, 3]),
                early_refresh=random.choice([0, 10]),
            )
            for cache in caches
        ]
        worlds = [World(key, policies, random) for key in range(KEYS)]
        await asyncio.gather(*(world.run() for world in worlds))
        for world in worlds:
            found += [f"seed {seed}: {violation}" for violation in world.violations]
            reads += world.reads
        if found and one_is_enough:
            break
    return found, reads


async def test_no_read_sees_what_was_invalidated_before_it_started(
    another: OpenCache, redis: Redis
) -> None:
    found, reads = await violations(another, range(SEEDS))
    assert found == []
    assert reads > SEEDS * STEPS * KEYS / 4

    async def only_throttles_are_left() -> bool:
        held = [await redis.get(lease) for lease in await lease_keys(redis)]
        return all(token in (None, b"throttled") for token in held)

    await until(only_throttles_are_left)


@pytest.mark.slow
async def test_the_same_for_longer_where_answers_overtake_each_other(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = Random(1)
    for name in ("read", "lease_many", "store_many", "release_leases", "delete", "drop_versions"):
        monkeypatch.setattr(CacheStore, name, paused(getattr(CacheStore, name), pauses))
    found, _ = await violations(another, range(1_000, 1_100))
    assert found == []


def paused(call: Callable[..., Awaitable[Any]], random: Random) -> Callable[..., Awaitable[Any]]:
    """`call` on a network that takes its time, both ways."""

    async def slow(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.004]))
        try:
            return await call(*arguments, **options)
        finally:
            await asyncio.sleep(random.choice([0, 0, 0.001, 0.004]))

    return slow


async def test_control_without_the_lease_check(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "STORE", UNCHECKED_STORE)
    found, _ = await violations(another, CONTROL_SEEDS, one_is_enough=True)
    assert found


async def test_control_without_the_look_at_the_lease_before_joining(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def always(*_: object) -> bool:
        return True

    monkeypatch.setattr(LoadCoordinator, "_is_current", always)
    found, _ = await violations(another, CONTROL_SEEDS, one_is_enough=True)
    assert found


async def test_control_without_comparing_versions(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = entry_module.decode

    def believing(raw: bytes | None, **options: object) -> Entry | Miss:
        if raw is not None and len(raw) > 70:
            count = raw[65]
            options["versions"] = raw[66 : 66 + 8 * count]
        return real(raw, **options)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(codec_module, "decode", believing)
    found, _ = await violations(another, CONTROL_SEEDS, one_is_enough=True)
    assert found
