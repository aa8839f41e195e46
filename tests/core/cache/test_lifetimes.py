"""What is stored stays as long as it is useful, above all where strangers choose the key."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
from fastapi import HTTPException
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy
from app.core.cache.loading import Lookup
from app.core.cache.store import _VERSION_MARGIN_SECONDS
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Source, cache_of

NEGATIVE_TTL, LONG, LOADER_TIMEOUT = 15, 3600, 10
OPTIONS = {
    "ttl": 60,
    "jitter": 0,
    "stale_while_revalidate": 30,
    "stale_if_error": LONG,
    "loader_timeout": LOADER_TIMEOUT,
}

Read = Callable[[str], Awaitable[object]]


def one_by_one(policy: CachePolicy[str], value: str | None) -> Read:
    return lambda key: policy.get_or_load(key, Source(value).load, tags=[f"tag:{key}"])


def many(policy: CachePolicy[str], value: str | None) -> Read:
    async def load(keys: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(keys, value) if value is not None else {}

    return lambda key: policy.get_or_load_many([key], load, tags=[f"tag:{key}"])


def route(policy: CachePolicy[str], value: str | None) -> Read:
    @policy.http(public=True, tags=lambda key: [f"tag:{key}"])
    async def show(key: str) -> str:
        if value is None:
            raise HTTPException(404)
        return value

    def read(key: str) -> Awaitable[object]:
        async def produce() -> Any:
            return await show.builder.build({"key": key})

        lookup = Lookup(show.codec, show.entry_keys({"key": key}, None), produce)
        return cache_of(policy).engine.get(lookup)

    return read


@pytest.fixture(params=[one_by_one, many, route], ids=lambda maker: maker.__name__)
def maker(request: pytest.FixtureRequest) -> Callable[[CachePolicy[str], str | None], Read]:
    made: Callable[[CachePolicy[str], str | None], Read] = request.param
    return made


async def lives(redis: Redis) -> dict[str, float]:
    """Seconds for which each entry and each version of a tag will be there."""
    keys = [key async for key in redis.scan_iter() if key.endswith(b"}") or b":@tag:" in key]
    async with redis.pipeline() as pipeline:  # all at one moment
        for key in keys:
            pipeline.pttl(key)
        return {
            key.decode(): life / 1000
            for key, life in zip(keys, await pipeline.execute(), strict=True)
        }


async def test_what_does_not_exist_leaves_nothing_for_long(
    cache: Cache, redis: Redis, maker: Callable[[CachePolicy[str], None], Read]
) -> None:
    read = maker(cache.policy("item", str, negative_ttl=NEGATIVE_TTL, **OPTIONS), None)
    for _ in range(20):
        await read(str(uuid4()))
    left = await lives(redis)
    assert len(left) == 40  # the entry, and the version of its tag, with which it can be removed
    assert all(0 < life <= 2 * NEGATIVE_TTL + _VERSION_MARGIN_SECONDS for life in left.values())


async def test_what_was_not_there_is_read_again_once_its_tag_is_invalidated(
    cache: Cache,
) -> None:
    policy = cache.policy("item", str, negative_ttl=NEGATIVE_TTL, **OPTIONS)
    source = Source[str | None](None)
    assert await policy.get_or_load(1, source.load, tags=["tag"]) is None
    source.value = "made"
    assert await policy.get_or_load(1, source.load, tags=["tag"]) is None
    await cache.invalidate_tags("tag")
    assert await policy.get_or_load(1, source.load, tags=["tag"]) == "made"


async def test_a_version_is_there_as_long_as_what_carries_it(
    cache: Cache, redis: Redis, maker: Callable[[CachePolicy[str], str], Read]
) -> None:
    read = maker(cache.policy("item", str, **OPTIONS), "value")
    await read("key")
    left = await lives(redis)
    (version,) = (life for key, life in left.items() if "@tag" in key)
    (entry,) = (life for key, life in left.items() if "@tag" not in key)
    assert LONG < entry < version <= entry + _VERSION_MARGIN_SECONDS + 1


async def test_a_tag_of_several_entries_lasts_for_the_longest_of_them(
    cache: Cache, redis: Redis
) -> None:
    long, short = cache.policy("long", str, ttl=LONG), cache.policy("short", str, ttl=10)
    source = Source("value")
    for policy, key in ((short, 1), (long, 1), (short, 2)):
        await policy.get_or_load(key, source.load, tags=["shared"])
    name = cache.keyspace.tag_version("shared")
    assert await redis.pttl(name) > 0.9 * LONG * 1000
    # It was made to last longer, not made anew.
    for policy, key in ((short, 1), (long, 1), (short, 2)):
        await policy.get_or_load(key, source.load, tags=["shared"])
    assert source.loads == 3
    # Filling it again is reason enough to let it last again.
    await redis.pexpire(name, 20_000)
    await long.get_or_load(2, source.load, tags=["shared"])
    assert await redis.pttl(name) > 0.9 * LONG * 1000


@pytest.mark.parametrize("outcome", ["error", "unkept"])
async def test_a_load_that_keeps_nothing_leaves_a_version_only_for_a_moment(
    cache: Cache, redis: Redis, outcome: str
) -> None:
    policy = cache.policy("item", str, negative_ttl=0, **OPTIONS)
    source = Source[str | None](None)
    if outcome == "error":
        source.error = OSError("down")
        with pytest.raises(OSError, match="down"):
            await policy.get_or_load(1, source.load, tags=["tag"])
    else:
        await policy.get_or_load(1, source.load, tags=["tag"])
    (life,) = (await lives(redis)).values()
    assert 0 < life <= LOADER_TIMEOUT + _VERSION_MARGIN_SECONDS


async def test_an_invalidation_during_the_load_is_not_undone(
    another: OpenCache, redis: Redis
) -> None:
    cache = await another()
    policy, source = cache.policy("item", str, **OPTIONS), Source("old")

    async def load() -> str:
        value = await source.load()
        await cache.invalidate_tags("tag")
        return value

    await policy.get_or_load(1, load, tags=["tag"])
    assert await redis.exists(cache.keyspace.tag_version("tag")) == 0
    source.value = "new"
    assert await policy.get_or_load(1, source.load, tags=["tag"]) == "new"
