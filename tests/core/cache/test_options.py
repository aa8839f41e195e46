"""Policies are checked when they are declared."""

import asyncio
import math
from typing import Any, cast, get_type_hints

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache
from app.core.cache.entry import Entry
from app.core.cache.options import MoreOptions, PolicyOptions
from tests.core.cache.harness import Source, keys_of


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": math.nan},
        {"ttl": math.inf},
        {"jitter": 0.6},
        {"jitter": -0.1},
        {"negative_ttl": -1},
        {"stale_while_revalidate": -1},
        {"stale_if_error": math.nan},
        {"error_throttle": -1},
        {"early_refresh": -1},
        {"loader_timeout": 0},
        {"lease_wait": math.inf},
        {"compress_from": -1},
        {"near_ttl": -1},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_by_name(cache: Cache, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        cache.policy("item", int, **({"ttl": 60} | options))


def test_an_unknown_option_is_refused_by_name(cache: Cache) -> None:
    with pytest.raises(TypeError, match="stale_while_revalidat"):
        cache.policy("item", int, ttl=60, **cast(Any, {"stale_while_revalidat": 30}))


@pytest.mark.parametrize("name", ["", "a:b", "a b", "é", "a{b}", "a\n", "@tag"])
def test_a_name_is_plain(cache: Cache, name: str) -> None:
    with pytest.raises(ValueError, match="a policy's name"):
        cache.policy(name, int, ttl=60)


def test_a_name_is_taken_once(cache: Cache) -> None:
    cache.policy("item", int, ttl=60)
    with pytest.raises(ValueError, match="already"):
        cache.policy("item", str, ttl=60)


def test_a_type_that_cannot_be_kept_is_refused(cache: Cache) -> None:
    with pytest.raises(TypeError, match="cannot be kept in the cache"):
        cache.policy("item", asyncio.Lock, ttl=60)


async def test_an_untyped_policy_takes_the_type_from_the_loader(cache: Cache) -> None:
    policy = cache.policy("item", ttl=60)

    async def typed() -> tuple[int, ...]:
        return (1, 2)

    assert await policy.get_or_load(1, typed) == await policy.get_or_load(1, typed) == (1, 2)

    async def untyped():  # type: ignore[no-untyped-def]  # that is the point
        return 1

    with pytest.raises(TypeError, match="annotate what the loader returns"):
        await policy.get_or_load(2, untyped)


async def stored(redis: Redis, policy: Any, key: Any) -> Entry:
    keys = keys_of(policy, key)
    raw, *versions = cast(list[bytes], await redis.mget(keys.read_keys))
    entry = policy._make_codec(int).unpack(keys, raw, versions, at=0).entry
    assert isinstance(entry, Entry)
    return entry


async def test_jitter_shortens_lives_by_at_most_its_share(cache: Cache, redis: Redis) -> None:
    policy = cache.policy("item", int, ttl=100, jitter=0.2, stale_while_revalidate=10)
    lives = []
    for key in range(60):
        await policy.get_or_load(key, Source(1).load)
        entry = await stored(redis, policy, key)
        lives.append((entry.fresh_until - entry.created) / 1000)
        assert entry.stale_until - entry.fresh_until == 10_000
    assert 80 <= min(lives) < 85
    assert 95 < max(lives) <= 100
    exact = cache.policy("exact", int, ttl=100, jitter=0)
    await exact.get_or_load(1, Source(1).load)
    entry = await stored(redis, exact, 1)
    assert entry.fresh_until - entry.created == 100_000


async def test_redis_forgets_an_entry_when_nobody_may_be_served_it(
    cache: Cache, redis: Redis
) -> None:
    policy = cache.policy(
        "item", int, ttl=10, jitter=0, stale_while_revalidate=20, stale_if_error=30
    )
    await policy.get_or_load(1, Source(1).load)
    left = await redis.pttl(keys_of(policy, 1).value)
    assert 39_000 < left <= 40_000


async def test_a_policy_does_not_end_with_its_version_and_tags_are_forgotten(
    cache: Cache, redis: Redis
) -> None:
    policy = cache.policy("item", int, ttl=10)
    await policy.get_or_load(1, Source(1).load, tags=["tag"])
    policy_version, tag_version = keys_of(policy, 1, ["tag"]).versions
    assert await redis.pttl(policy_version) == -1
    assert 9_000 < await redis.pttl(tag_version) < 60_000  # see test_lifetimes


def test_every_option_is_known_by_its_type_where_it_is_typed() -> None:
    """Editors and mypy know the arguments of `Cache.policy` by these."""
    declared = get_type_hints(PolicyOptions)
    assert declared.pop("ttl") is float
    assert get_type_hints(MoreOptions) == declared
