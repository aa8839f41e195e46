"""The near cache answers without Redis, and only while it hears of invalidations."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from app.core.cache import Cache, CachePolicy
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.counters import reads
from tests.core.cache.harness import Source, cache_of
from tests.support.wire import counted_writes

OpenNear = Callable[[], Awaitable[Cache]]


@pytest.fixture
async def open_near(shared_server: EmbeddedValkey, redis: Redis, another: OpenCache) -> OpenNear:
    async def open_near() -> Cache:
        cache = await another(near_bytes=100_000, near_client=redis)
        near = cache._near
        assert near is not None
        await until(lambda: near.is_online)
        return cache

    return open_near


def policy_of(cache: Cache) -> CachePolicy[list[int]]:
    return cache.policy("item", list[int], ttl=60, near_ttl=60)


async def read(policy: CachePolicy[list[int]], value: int) -> int:
    found = await policy.get_or_load(1, Source([value]).load, tags=["tag"])
    return found[0]


async def test_a_hit_costs_nothing_and_is_nobody_elses(open_near: OpenNear) -> None:
    policy = policy_of(await open_near())
    for _ in range(2):
        await read(policy, 1)
    with counted_writes() as wire:
        found = await policy.get_or_load(1, Source([2]).load, tags=["tag"])
        found.append(3)
        assert await policy.get_or_load(1, Source([2]).load, tags=["tag"]) == [1]
    assert len(wire) == 0


async def test_reading_many_costs_nothing_for_what_is_near(open_near: OpenNear) -> None:
    policy, asked = policy_of(await open_near()), []

    async def load(keys: Sequence[int]) -> dict[int, list[int]]:
        asked.append(list(keys))
        return {key: [key] for key in keys}

    expected = {key: [key] for key in range(5)}
    await policy.get_or_load_many(range(4), load, tags=["tag"])
    assert await policy.get_or_load_many(range(4), load, tags=["tag"]) == {
        key: [key] for key in range(4)
    }
    near = reads("item", "near")
    with counted_writes() as wire:
        for _ in range(5):
            found = await policy.get_or_load_many(range(4), load, tags=["tag"])
            assert found[3] == [3]
            found[3].append(1)  # each caller has values of its own
    assert (len(wire), reads("item", "near") - near) == (0, 20)
    assert await policy.get_or_load_many(range(5), load, tags=["tag"]) == expected
    assert asked == [[0, 1, 2, 3], [4]]
    with counted_writes() as wire:  # what one way of reading has found, the other one knows
        assert await policy.get_or_load(2, Source([9]).load, tags=["tag"]) == [2]
    assert len(wire) == 0
    await cache_of(policy).invalidate_tags("tag")
    await policy.get_or_load_many(range(2), load, tags=["tag"])
    assert asked[2:] == [[0, 1]]


async def test_reading_many_keeps_nothing_that_was_invalidated_meanwhile(
    open_near: OpenNear, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await open_near()
    policy = policy_of(cache)
    await read(policy, 1)
    before = cache._store.read

    async def overtaken(keys: Sequence[bytes]) -> list[bytes | None]:
        values = await before(keys)
        await policy.invalidate(1)
        return values

    async def load(keys: Sequence[int]) -> dict[int, list[int]]:
        return {key: [2] for key in keys}

    monkeypatch.setattr(cache._store, "read", overtaken)
    assert await policy.get_or_load_many([1], load, tags=["tag"]) == {1: [1]}
    monkeypatch.setattr(cache._store, "read", before)
    assert await policy.get_or_load_many([1], load, tags=["tag"]) == {1: [2]}


WAYS: dict[str, Callable[[CachePolicy[list[int]]], Awaitable[None]]] = {
    "key": lambda policy: policy.invalidate(1),
    "tag": lambda policy: cache_of(policy).invalidate_tags("tag"),
    "clear": lambda policy: policy.clear(),
}


@pytest.mark.parametrize("invalidate", WAYS.values(), ids=WAYS)
async def test_invalidations_are_heard_in_every_process(
    open_near: OpenNear, invalidate: Callable[[CachePolicy[list[int]]], Awaitable[None]]
) -> None:
    here, there = policy_of(await open_near()), policy_of(await open_near())
    for _ in range(2):
        assert [await read(here, 1), await read(there, 1)] == [1, 1]
    await invalidate(here)
    assert await read(here, 2) == 2

    async def heard() -> bool:
        return await read(there, 3) == 2

    await until(heard)


@pytest.mark.parametrize("invalidate", WAYS.values(), ids=WAYS)
async def test_a_read_during_an_invalidation_does_not_keep_what_it_saw(
    open_near: OpenNear,
    monkeypatch: pytest.MonkeyPatch,
    invalidate: Callable[[CachePolicy[list[int]]], Awaitable[None]],
) -> None:
    cache = await open_near()
    policy = policy_of(cache)
    await read(policy, 1)
    for name in ("delete", "drop_versions"):
        real = getattr(cache._store, name)

        async def slow(what: object, send: Callable[..., Awaitable[None]] = real) -> None:
            assert await read(policy, 2) == 1  # not yet invalidated: this is kept near
            await send(what)

        monkeypatch.setattr(cache._store, name, slow)
    assert cache._backplane is not None
    # News that comes late.
    monkeypatch.setattr(cache._backplane._connection, "_on_message", lambda *_: None)
    await invalidate(policy)
    assert await read(policy, 2) == 2


async def test_when_it_is_cut_off_nothing_is_believed(open_near: OpenNear, redis: Redis) -> None:
    cache = await open_near()
    policy = policy_of(cache)
    for _ in range(2):
        await read(policy, 1)
    near = cache._near
    assert near is not None
    generation = near._everything
    await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: near._everything != generation)
    await until(lambda: near.is_online)
    with counted_writes() as wire:
        assert await read(policy, 2) == 1
    assert len(wire) == 1


async def test_it_stays_within_its_bytes(open_near: OpenNear) -> None:
    cache = await open_near()
    policy = cache.policy("large", str, ttl=60, near_ttl=60)
    source = Source("x" * 5_000)
    for key in range(100):
        for _ in range(2):
            await policy.get_or_load(key, source.load)
    near = cache._near
    assert near is not None
    assert 0 < near._bytes <= 100_000
    await asyncio.sleep(0)
    await policy.clear()
    assert (near._bytes, len(near._entries), near._by_version) == (0, 0, {})


@pytest.mark.parametrize("message", ["", "{", "[]", "{}", "null", '["later", 1]', '["entries", 1]'])
async def test_news_that_it_does_not_understand_leave_nothing_to_believe(
    open_near: OpenNear, redis: Redis, message: str
) -> None:
    """A later version of this code may say more: then an old one keeps nothing."""
    cache = await open_near()
    policy, near = policy_of(cache), cache._near
    assert near is not None
    for _ in range(2):
        await read(policy, 1)
    generations = near._everything + sum(near._generations)
    await redis.publish(cache.keyspace.channel, message)
    await until(lambda: near._everything + sum(near._generations) != generations)
    assert near.is_online
    for _ in range(2):
        await read(policy, 1)
    await policy.invalidate(1)  # and it still hears those that it does
    assert await read(policy, 2) == 2


async def test_it_comes_back_whatever_ended_the_connection(
    open_near: OpenNear, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await open_near()
    listener, near = cache._backplane, cache._near
    assert listener is not None
    assert near is not None
    heard, told = listener._connection._on_message, []

    def failing(channel: str, message: bytes) -> None:
        told.append(message)
        if len(told) == 1:
            raise RuntimeError("a mistake of ours")
        heard(channel, message)

    monkeypatch.setattr(listener._connection, "_on_message", failing)
    await redis.publish(cache.keyspace.channel, "[]")
    await until(lambda: not near.is_online)
    await until(lambda: near.is_online)


async def test_it_closes_though_its_cancellation_was_taken_for_something_else(
    open_near: OpenNear, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await open_near()
    get_message, waits = PubSub.get_message, asyncio.Event()

    async def swallowing(self: PubSub, **options: Any) -> Any:
        waits.set()
        try:
            return await get_message(self, **options)
        except asyncio.CancelledError:
            return None

    monkeypatch.setattr(PubSub, "get_message", swallowing)
    await asyncio.wait_for(waits.wait(), HANG)
    async with asyncio.timeout(HANG):
        await cache.__aexit__(None, None, None)
