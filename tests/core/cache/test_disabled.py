"""A cache that is switched off: every read loads, nothing is kept, invalidations go out."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from fastapi import APIRouter
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy
from devservers.waiting import until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.counters import misses, reads
from tests.core.cache.harness import Source, is_healthy, lease_keys, value_keys
from tests.core.cache.http.serving import Item, application, asking, status

OPTIONS: dict[str, Any] = dict.fromkeys(
    ("ttl", "stale_while_revalidate", "stale_if_error", "near_ttl"), 3600
)


def policy_of(cache: Cache) -> CachePolicy[str]:
    return cache.policy("item", str, **OPTIONS)


@pytest.fixture
async def disabled(another: OpenCache, redis: Redis) -> Cache:
    return await another(enabled=False, near_bytes=100_000, near_client=redis, max_loads=2)


async def test_every_read_loads_and_nothing_is_kept(disabled: Cache, redis: Redis) -> None:
    policy, source, asked = policy_of(disabled), Source("value"), []

    @policy.cached()
    async def find(key: int) -> str:
        return await source.load()

    async def load_many(keys: Sequence[int]) -> dict[int, str]:
        asked.append(keys)
        return dict.fromkeys(keys, "value")

    before = misses("item", "disabled"), reads("item", "miss")
    for _ in range(3):
        assert await policy.get_or_load(1, source.load) == "value"
        assert await find(1) == "value"
        assert await policy.get_or_load_many([1, 2], load_many) == {1: "value", 2: "value"}
    assert (source.loads, asked) == (6, [[1, 2]] * 3)
    assert await value_keys(redis) == await lease_keys(redis) == []
    assert (misses("item", "disabled"), reads("item", "miss")) == (before[0] + 12, before[1] + 12)
    assert await is_healthy(disabled)


async def test_callers_do_not_share_a_load_and_no_more_run_than_may(disabled: Cache) -> None:
    policy, source = policy_of(disabled), Source("value")
    source.hold()
    calls = [asyncio.create_task(policy.get_or_load(1, source.load)) for _ in range(5)]
    await until(lambda: source.loads == 2)
    source.release()
    await asyncio.gather(*calls)
    assert source.loads == 5


async def test_a_failing_load_is_an_error(disabled: Cache) -> None:
    policy, source = policy_of(disabled), Source("value")
    assert await policy.get_or_load(1, source.load) == "value"
    source.error = OSError("the source is down")
    with pytest.raises(OSError, match="the source is down"):
        await policy.get_or_load(1, source.load)


async def test_a_load_takes_no_longer_than_it_may(disabled: Cache) -> None:
    policy, source = disabled.policy("item", str, ttl=60, loader_timeout=0.01), Source("value")
    source.hold()
    with pytest.raises(TimeoutError, match="loading 'item' took more than"):
        await policy.get_or_load(1, source.load)


@pytest.mark.parametrize("way", ["invalidate", "clear", "tag", "refresh"])
async def test_when_it_is_enabled_again_nothing_is_old(
    another: OpenCache, disabled: Cache, way: str
) -> None:
    """Nor is it in processes that never disabled it."""
    cache = await another()
    enabled, source = policy_of(cache), Source("old")
    assert await enabled.get_or_load(1, source.load, tags=["tag"]) == "old"
    source.value = "new"
    assert await enabled.get_or_load(1, source.load, tags=["tag"]) == "old"
    policy = policy_of(disabled)
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "invalidate": lambda: policy.invalidate(1),
        "clear": policy.clear,
        "tag": lambda: disabled.invalidate_tags("tag"),
        "refresh": lambda: policy.refresh(1, source.load, tags=["tag"]),
    }
    await ways[way]()

    async def is_new() -> bool:
        return await enabled.get_or_load(1, source.load, tags=["tag"]) == "new"

    await until(is_new)


async def test_routes_answer_without_it(disabled: Cache, redis: Redis) -> None:
    made = []

    @policy_of(disabled).http(public=True)
    async def show(number: int) -> Item:
        made.append(number)
        return Item(id=number)

    router = APIRouter()
    router.get("/items/{number}")(show)
    app = application(router)
    async with asking(app) as client:
        answers = [await client.get("/items/1") for _ in range(3)]
        again = await client.get("/items/1", headers={"if-none-match": answers[0].headers["etag"]})
    assert [answer.json() for answer in answers] == [{"id": 1, "name": ""}] * 3
    assert [status(answer) for answer in answers] == ["fwd=miss"] * 3
    assert again.status_code == 304
    assert made == [1] * 4
    assert await value_keys(redis) == []
