"""Once an invalidation has returned, nobody who comes after it gets what was there before."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy
from app.core.cache import store as store_module
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import (
    UNCHECKED_STORE,
    Clock,
    Source,
    cache_of,
    lease_keys,
    running_loads,
    value_keys,
    waiting_callers,
)

KEY, TAG = 7, "team:1"
TTL = 60.0
OPTIONS = {
    "ttl": TTL,
    "stale_while_revalidate": 3600,
    "stale_if_error": 3600,
    "error_patience": HANG,
    "lease_wait": HANG,
}

Invalidate = Callable[[Cache, CachePolicy[str]], Awaitable[None]]

WAYS: dict[str, Invalidate] = {
    "key": lambda _, policy: policy.invalidate(KEY),
    "tag": lambda cache, _: cache.invalidate_tags(TAG),
    "clear": lambda _, policy: policy.clear(),
}


def policy_of(cache: Cache, **options: float) -> CachePolicy[str]:
    return cache.policy("item", str, **cast(Any, {**OPTIONS, **options}))


def read(policy: CachePolicy[str], source: Source[str]) -> asyncio.Task[str]:
    return asyncio.create_task(policy.get_or_load(KEY, source.load, tags=[TAG]))


def hold_leases(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, *, granted: bool
) -> tuple[asyncio.Event, asyncio.Event]:
    """Whoever asks for a lease sets the first event and waits for the second one.

    With `granted` Redis has answered by then, and only the answer is late.
    """
    held, go_on = asyncio.Event(), asyncio.Event()
    lease_many = cache._store.lease_many

    async def pause() -> None:
        held.set()
        await go_on.wait()

    async def late(*arguments: Any, **options: Any) -> object:
        if not granted:
            await pause()
        reply = await lease_many(*arguments, **options)
        if granted:
            await pause()
        return reply

    monkeypatch.setattr(cache._store, "lease_many", late)
    return held, go_on


@pytest.mark.parametrize("invalidate", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_what_a_running_load_brings_is_neither_stored_nor_served(
    another: OpenCache, invalidate: Invalidate, elsewhere: bool
) -> None:
    cache = await another()
    policy = policy_of(cache)
    other = await another() if elsewhere else cache
    other_policy = policy_of(other) if elsewhere else policy
    source = Source("old")
    source.hold()
    early = read(policy, source)
    await source.started.wait()

    source.value = "new"
    await invalidate(other, other_policy)
    late = [read(policy, source), read(other_policy, source)]
    await until(lambda: sum(map(running_loads, {cache, other})) == 2 + elsewhere)
    source.release()

    assert await early == "old"  # it came before
    assert await asyncio.gather(*late) == ["new", "new"]
    assert await read(policy, source) == "new"
    assert await read(other_policy, source) == "new"


@pytest.mark.parametrize("invalidate", WAYS.values(), ids=WAYS)
async def test_a_background_refresh_cannot_bring_the_old_value_back(
    cache: Cache, clock: Clock, invalidate: Invalidate
) -> None:
    policy = policy_of(cache)
    source = Source("old")
    await read(policy, source)
    clock.advance(TTL)
    source.hold()
    assert await read(policy, source) == "old"
    await source.started.wait()

    source.value = "new"
    await invalidate(cache, policy)
    late = read(policy, source)
    await until(lambda: running_loads(cache) == 1)
    source.release()
    assert await late == "new"
    assert await read(policy, source) == "new"


@pytest.mark.parametrize("invalidate", WAYS.values(), ids=WAYS)
async def test_an_invalidated_entry_is_not_served_when_the_loader_fails(
    cache: Cache, invalidate: Invalidate
) -> None:
    policy = policy_of(cache)
    source = Source("old")
    await read(policy, source)
    await invalidate(cache, policy)
    source.error = OSError("down")
    with pytest.raises(OSError, match="down"):
        await read(policy, source)


async def test_an_entry_that_vanishes_before_the_lease_is_not_a_fallback(
    another: OpenCache, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader has seen the old entry; it is invalidated before the reader asks for the lease."""
    cache, other = await another(), await another()
    policy = policy_of(cache, stale_while_revalidate=0)
    source = Source("old")
    await read(policy, source)
    clock.advance(TTL)

    at_lease, go_on = hold_leases(cache, monkeypatch, granted=False)
    early = read(policy, source)
    await at_lease.wait()
    await policy_of(other).invalidate(KEY)
    source.error = OSError("down")
    late = read(policy, source)
    await until(lambda: waiting_callers(cache) == 2)
    go_on.set()
    for task in (early, late):
        with pytest.raises(OSError, match="down"):
            await task


@pytest.mark.parametrize("invalidate", WAYS.values(), ids=WAYS)
async def test_who_comes_afterwards_gets_no_fallback_from_before(
    another: OpenCache, clock: Clock, monkeypatch: pytest.MonkeyPatch, invalidate: Invalidate
) -> None:
    """The lease is granted before the invalidation; that answer arrives after the next reader."""
    cache, other = await another(), await another()
    policy = policy_of(cache, stale_while_revalidate=0)
    source = Source("old")
    await read(policy, source)
    clock.advance(TTL)

    granted, go_on = hold_leases(cache, monkeypatch, granted=True)
    early = read(policy, source)
    await granted.wait()
    await invalidate(other, policy_of(other))
    source.error = OSError("down")
    late = read(policy, source)
    await until(lambda: waiting_callers(cache) == 2)
    go_on.set()
    assert await early == "old"  # it came before, and this is what the fallback is for
    with pytest.raises(OSError, match="down"):
        await late


@pytest.mark.parametrize("invalidate", WAYS.values(), ids=WAYS)
async def test_a_load_without_a_lease_is_not_joined_after_an_invalidation(
    another: OpenCache, invalidate: Invalidate
) -> None:
    """Who has waited long enough for another process loads for himself, without a lease."""
    holder, impatient = await another(), await another()
    slow, fast = policy_of(holder), policy_of(impatient, lease_wait=0.03)
    source = Source("old")
    source.hold()
    holding = read(slow, source)
    await source.started.wait()
    early = read(fast, source)
    await until(lambda: source.loads == 2)
    joined = read(fast, source)
    await until(lambda: waiting_callers(impatient) == 2)
    assert source.loads == 2  # nothing happened yet, so it is joined

    source.value = "new"
    await invalidate(holder, slow)
    late = read(fast, source)
    await until(lambda: source.loads == 3)
    source.release()
    assert list(await asyncio.gather(holding, early, joined)) == ["old", "old", "old"]
    assert await late == "new"
    assert await read(fast, source) == "new"


@pytest.mark.parametrize("invalidate", WAYS.values(), ids=WAYS)
async def test_a_load_without_redis_is_not_joined_after_an_invalidation(
    cache: Cache, invalidate: Invalidate
) -> None:
    policy = policy_of(cache)
    cache._breaker.open("a test")
    source = Source("old")
    source.hold()
    early = read(policy, source)
    await source.started.wait()
    source.value = "new"
    await invalidate(cache, policy)
    late = read(policy, source)
    await until(lambda: source.loads == 2)
    source.release()
    assert (await early, await late) == ("old", "new")


async def test_a_cleared_policy_does_not_wait_for_a_failure_to_be_forgotten(
    cache: Cache, clock: Clock
) -> None:
    """The throttle keeps the old value in service; once that is gone it keeps nobody waiting."""
    policy = policy_of(cache, stale_while_revalidate=0, error_throttle=10 * HANG)
    source = Source("old")
    await read(policy, source)
    clock.advance(TTL)
    source.error = OSError("down")
    assert await read(policy, source) == "old"
    source.error, source.value = None, "new"
    await policy.clear()
    async with asyncio.timeout(HANG):
        assert await read(policy, source) == "new"


async def test_none_that_is_not_kept_removes_what_was_there(cache: Cache, clock: Clock) -> None:
    policy = policy_of(cache, negative_ttl=0)
    found: list[str | None] = ["old"]

    async def load() -> str | None:
        return found[0]

    await policy.get_or_load(KEY, load)
    clock.advance(TTL)
    found[0] = None
    assert await policy.get_or_load(KEY, load) == "old"  # and refreshes in the background

    async def is_gone() -> bool:
        return await policy.get_or_load(KEY, load) is None

    await until(is_gone)


@pytest.mark.parametrize("tags", [["a", "a"], ["b", "a"], ["a", "b", "a"]], ids=str)
async def test_tags_are_a_set(cache: Cache, tags: list[str]) -> None:
    policy, source = policy_of(cache), Source("value")
    await policy.get_or_load(KEY, source.load, tags=tags)
    await policy.get_or_load(KEY, source.load, tags=sorted(set(tags)))
    await policy.get_or_load(KEY, source.load, tags=tags)
    assert source.loads == 1


async def test_a_tag_that_is_one_string_is_refused(cache: Cache) -> None:
    policy = policy_of(cache)
    with pytest.raises(TypeError, match="tags"):
        await policy.get_or_load(KEY, Source("value").load, tags="team:1")


async def test_invalidation_removes_value_and_lease(cache: Cache, redis: Redis) -> None:
    policy, source = policy_of(cache), Source("old")
    await read(policy, source)
    assert len(await value_keys(redis)) == 1
    await policy.invalidate(KEY)
    assert (await value_keys(redis), await lease_keys(redis)) == ([], [])


@pytest.mark.parametrize("invalidate", [WAYS["key"]], ids=["key"])
async def test_control_without_the_lease_check_the_old_value_is_stored(
    another: OpenCache, invalidate: Invalidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "STORE", UNCHECKED_STORE)
    cache = await another()
    policy, source = policy_of(cache), Source("old")
    source.hold()
    early = read(policy, source)
    await source.started.wait()
    source.value = "new"
    await invalidate(cache, policy)
    source.release()
    await early
    assert await read(policy, source) == "old"  # the violation


async def test_control_without_the_look_at_the_lease_a_late_caller_is_served_the_old_value(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = await another(), await another()
    policy, source = policy_of(cache), Source("old")

    async def always(*_: object) -> bool:
        return True

    monkeypatch.setattr(cache.engine.coordinator, "_is_current", always)
    source.hold()
    early = read(policy, source)
    await source.started.wait()
    source.value = "new"
    await policy_of(other).invalidate(KEY)
    late = read(policy, source)
    await until(lambda: waiting_callers(cache) == 2)
    source.release()
    await early
    assert await late == "old"  # the violation


async def test_processes_that_meet_a_new_tag_at_once_agree_about_its_version(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = policy_of(await another()), policy_of(await another())
    asked, go_on = [], asyncio.Event()
    for policy in (one, other):
        lease_many = cache_of(policy)._store.lease_many

        async def held(*arguments: Any, ask: Any = lease_many, **options: Any) -> object:
            asked.append(arguments)
            await go_on.wait()
            return await ask(*arguments, **options)

        monkeypatch.setattr(cache_of(policy)._store, "lease_many", held)
    source = Source("value")
    tasks = [
        asyncio.create_task(policy.get_or_load(key, source.load, tags=["new"]))
        for key, policy in enumerate((one, other))
    ]
    await until(lambda: len(asked) == 2)
    go_on.set()
    await asyncio.gather(*tasks)
    for key in (0, 1):
        await one.get_or_load(key, source.load, tags=["new"])
    assert source.loads == 2
