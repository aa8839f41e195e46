"""Several keys at once: what is there, what is missing, and what others are loading."""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy, CacheUnavailable
from app.core.cache.refresh import _COOLDOWN_SECONDS as REFRESH_PAUSE
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.counters import reads, refreshes
from tests.core.cache.harness import Clock, Source, cache_of, lease_keys

TTL = 60.0


class Table:
    """A loader of many, which notes what it was asked for."""

    def __init__(self, **rows: str) -> None:
        self.rows = rows
        self.asked: list[list[str]] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(list(keys))
        rows, error = dict(self.rows), self.error
        await self.gate.wait()
        if error is not None:
            raise error
        return {key: rows[key] for key in keys if key in rows}


def policy_of(cache: Cache, **options: Any) -> CachePolicy[str]:
    patient = {"lease_wait": HANG, "error_patience": HANG}
    return cache.policy("item", str, **({"ttl": TTL, "jitter": 0} | patient | options))


async def test_only_the_missing_are_loaded_and_none_is_kept(cache: Cache) -> None:
    policy, table = policy_of(cache), Table(a="A", b="B", c="C")
    assert await policy.get_or_load_many(["a", "x"], table.load) == {"a": "A", "x": None}
    found = await policy.get_or_load_many(["c", "a", "b", "x"], table.load)
    assert list(found.items()) == [("c", "C"), ("a", "A"), ("b", "B"), ("x", None)]
    assert table.asked == [["a", "x"], ["c", "b"]]


async def test_none_or_the_same_key_twice(cache: Cache) -> None:
    policy, table = policy_of(cache), Table(a="A")
    assert await policy.get_or_load_many([], table.load) == {}
    assert await policy.get_or_load_many(["a", "a"], table.load) == {"a": "A"}
    assert table.asked == [["a"]]


async def test_it_shares_entries_with_single_reads(cache: Cache) -> None:
    policy, table, source = policy_of(cache), Table(a="A", b="B"), Source("single")
    await policy.get_or_load("a", source.load, tags=["t"])
    found = await policy.get_or_load_many(["a", "b"], table.load, tags=["t"])
    assert found == {"a": "single", "b": "B"}
    assert await policy.get_or_load("b", source.load, tags=["t"]) == "B"
    await cache.invalidate_tags("t")
    found = await policy.get_or_load_many(["a", "b"], table.load, tags=["t"])
    assert found == {"a": "A", "b": "B"}


async def test_an_untyped_policy_takes_the_type_from_the_loader(cache: Cache) -> None:
    policy, calls = cache.policy("untyped", ttl=60), []

    async def load(keys: Sequence[int]) -> dict[int, tuple[str, ...]]:
        calls.append(keys)
        return {key: (str(key),) for key in keys}

    async def load_one() -> tuple[str, ...]:
        return ()

    for _ in range(2):
        assert await policy.get_or_load_many([1, 2], load) == {1: ("1",), 2: ("2",)}
    assert len(calls) == 1
    assert await policy.get_or_load(1, load_one) == ("1",)


async def test_what_another_process_is_loading_is_waited_for(another: OpenCache) -> None:
    one, two = policy_of(await another()), policy_of(await another())
    table, source = Table(a="A", b="B"), Source("from the other")
    source.hold()
    other = asyncio.create_task(one.get_or_load("a", source.load))
    await source.started.wait()
    many = asyncio.create_task(two.get_or_load_many(["a", "b"], table.load))
    await until(lambda: table.asked == [["b"]])
    source.release()
    assert await many == {"a": "from the other", "b": "B"}
    assert await other == "from the other"
    assert (table.asked, source.loads) == ([["b"]], 1)


async def test_two_calls_at_once_load_every_key_once(another: OpenCache) -> None:
    one, two = policy_of(await another()), policy_of(await another())
    table = Table(a="A", b="B", c="C")
    results = await asyncio.gather(
        one.get_or_load_many(["a", "b"], table.load),
        two.get_or_load_many(["b", "c"], table.load),
        one.get_or_load_many(["c", "a"], table.load),
    )
    assert list(results) == [{"a": "A", "b": "B"}, {"b": "B", "c": "C"}, {"c": "C", "a": "A"}]
    assert sorted(key for keys in table.asked for key in keys) == ["a", "b", "c"]


async def test_a_failed_load_is_covered_by_old_values(
    cache: Cache, redis: Redis, clock: Clock
) -> None:
    policy, table = policy_of(cache, stale_if_error=3600, error_throttle=600), Table(a="A")
    await policy.get_or_load_many(["a", "x"], table.load)
    clock.advance(TTL)
    table.error = OSError("down")
    for _ in range(3):
        assert await policy.get_or_load_many(["a", "x"], table.load) == {"a": "A", "x": None}
    assert len(table.asked) == 2  # the others were throttled
    with pytest.raises(OSError, match="down"):
        await policy.get_or_load_many(["a", "new"], table.load)
    assert len(await lease_keys(redis)) == 2  # the throttles of the old ones


async def test_stale_values_are_served_and_refreshed_once(cache: Cache, clock: Clock) -> None:
    policy = policy_of(cache, stale_while_revalidate=3600)
    table = Table(a="A", b="B")
    await policy.get_or_load_many(["a", "b"], table.load)
    clock.advance(TTL)
    table.rows = {"a": "A2", "b": "B2"}
    table.gate.clear()
    for _ in range(20):
        assert await policy.get_or_load_many(["a", "b"], table.load) == {"a": "A", "b": "B"}
    await until(lambda: len(table.asked) == 2)
    table.gate.set()

    async def is_new() -> bool:
        return await policy.get_or_load_many(["a", "b"], table.load) == {"a": "A2", "b": "B2"}

    await until(is_new)


async def test_without_redis_old_values_and_loads_are_the_same(cache: Cache) -> None:
    policy, table = policy_of(cache), Table(a="A")
    cache._breaker.open("a test")
    assert await policy.get_or_load_many(["a", "x"], table.load) == {"a": "A", "x": None}


async def test_a_late_call_after_an_invalidation_is_served_nothing_old(cache: Cache) -> None:
    policy, table = policy_of(cache), Table(a="old", b="old")
    table.gate.clear()
    early = asyncio.create_task(policy.get_or_load_many(["a", "b"], table.load))
    await until(lambda: len(table.asked) == 1)
    table.rows = {"a": "new", "b": "new"}
    await policy.invalidate("a", "b")
    late = asyncio.create_task(policy.get_or_load_many(["a", "b"], table.load))
    await until(lambda: len(table.asked) == 2)
    table.gate.set()
    assert await early == {"a": "old", "b": "old"}
    assert await late == {"a": "new", "b": "new"}
    assert await policy.get_or_load_many(["a", "b"], table.load) == {"a": "new", "b": "new"}


async def test_without_redis_calls_for_the_same_keys_share_a_load(cache: Cache) -> None:
    policy, table = policy_of(cache), Table(a="A", b="B", c="C")
    cache._breaker.open("a test")
    table.gate.clear()
    same = [asyncio.create_task(policy.get_or_load_many("ab", table.load)) for _ in range(20)]
    other = asyncio.create_task(policy.get_or_load_many("bc", table.load))
    await until(lambda: len(table.asked) == 2)
    same[0].cancel()  # harms nobody
    table.rows["a"] = "new"
    await policy.invalidate("a")
    late = asyncio.create_task(policy.get_or_load_many("ab", table.load))
    await until(lambda: len(table.asked) == 3)
    table.gate.set()
    assert await asyncio.gather(*same[1:]) == [{"a": "A", "b": "B"}] * 19
    assert await other == {"b": "B", "c": "C"}
    assert await late == {"a": "new", "b": "B"}
    assert table.asked == [["a", "b"], ["b", "c"], ["a", "b"]]


async def test_old_values_stand_in_also_when_no_lease_is_to_be_had(
    cache: Cache, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, table = policy_of(cache, stale_if_error=3600), Table(a="A")
    await policy.get_or_load_many(["a", "x"], table.load)
    clock.advance(TTL)

    async def refuse(*_: object, **__: object) -> None:
        raise CacheUnavailable("READONLY", outage=False)

    monkeypatch.setattr(cache._store, "lease_many", refuse)
    table.error = OSError("down")
    assert await policy.get_or_load_many(["a", "x"], table.load) == {"a": "A", "x": None}
    with pytest.raises(OSError, match="down"):
        await policy.get_or_load_many(["a", "new"], table.load)


async def test_stale_readers_do_not_ask_for_leases_again_and_again(
    another: OpenCache, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"stale_while_revalidate": 3600}
    one, two = policy_of(await another(), **options), policy_of(await another(), **options)
    table = Table(a="A", b="B")
    await one.get_or_load_many("ab", table.load)
    clock.advance(TTL)
    table.gate.clear()
    await one.get_or_load_many("ab", table.load)
    await until(lambda: len(table.asked) == 2)
    asked, lease_many = [], cache_of(two)._store.lease_many

    async def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        return await lease_many(*arguments, **options)

    monkeypatch.setattr(cache_of(two)._store, "lease_many", counted)
    began = monotonic()
    for _ in range(100):
        assert await two.get_or_load_many("ab", table.load) == {"a": "A", "b": "B"}
    assert 1 <= len(asked) <= 2 + (monotonic() - began) / REFRESH_PAUSE
    table.gate.set()


async def test_popular_entries_are_refreshed_before_they_expire(cache: Cache) -> None:
    policy, table = policy_of(cache, ttl=60, early_refresh=1_000_000), Table(a="A")
    done = refreshes("item", "done")

    async def load(keys: Sequence[str]) -> Mapping[str, str]:
        await asyncio.sleep(0.005)
        return await table.load(keys)

    async def is_refreshed() -> bool:
        for _ in range(50):
            assert await policy.get_or_load_many(["a"], load) == {"a": "A"}
        return refreshes("item", "done") > done

    misses_before = reads("item", "miss")
    await until(is_refreshed)
    assert reads("item", "miss") == misses_before + 1


async def test_a_loader_that_returns_no_mapping_is_told_and_keeps_no_lease(
    cache: Cache, redis: Redis
) -> None:
    policy = policy_of(cache)

    async def load(keys: Sequence[str]) -> Any:
        return list(keys)

    with pytest.raises(TypeError, match="many 'item' has to return a mapping of keys"):
        await policy.get_or_load_many(["a", "b"], load)
    assert await lease_keys(redis) == []
