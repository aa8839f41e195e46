"""Invalidations that wait for Redis: bounded, and never forgotten."""

import asyncio
import socket
from functools import partial

import pytest
from structlog.testing import capture_logs

from app.core.cache import Cache, CacheUnavailable
from app.core.cache.outage import Breaker
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import (
    Source,
    is_healthy,
    open_cache,
    queued_invalidations,
)


async def recovered(*caches: Cache) -> None:
    for cache in caches:
        await until(partial(is_healthy, cache))


async def test_too_many_keys_become_a_clear_of_their_policy(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = await another(), await another()
    monkeypatch.setattr(cache._recovery, "_limit", 10)
    policies = [other.policy(name, str, ttl=60) for name in ("many", "few")]
    for policy in policies:
        for key in range(3):
            await policy.get_or_load(key, Source("old").load)
    many, few = (cache.policy(name, str, ttl=60) for name in ("many", "few"))
    cache._breaker.open("a test")
    await few.invalidate(0)
    for key in range(100, 200):
        await many.invalidate(key)
    assert queued_invalidations(cache) <= 11
    await recovered(cache)
    # The clear covers more than was asked for, which is safe; less would not be.
    assert await policies[0].get_or_load(1, Source("new").load) == "new"
    assert await policies[1].get_or_load(0, Source("new").load) == "new"


async def test_too_many_tags_become_a_clear_of_every_policy(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = await another(), await another()
    monkeypatch.setattr(cache._recovery, "_limit", 10)
    seen = [other.policy(name, str, ttl=60) for name in ("one", "two")]
    for policy in seen:
        await policy.get_or_load(1, Source("old").load, tags=["first"])
    cache.policy("one", str, ttl=60)
    cache.policy("two", str, ttl=60)
    cache._breaker.open("a test")
    await cache.invalidate_tags("first")
    for number in range(100):
        await cache.invalidate_tags(f"tag-{number}")
    assert queued_invalidations(cache) <= 11
    await recovered(cache)
    for policy in seen:
        assert await policy.get_or_load(1, Source("new").load, tags=["first"]) == "new"


async def test_what_is_queued_during_a_replay_is_carried_out_before_the_breaker_closes(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = cache.policy("item", str, ttl=60)
    for key in (1, 2):
        await policy.get_or_load(key, Source("old").load)
    probe, close = cache._store.probe, Breaker.close
    queued_at_close: list[int] = []

    async def probing(key: str) -> None:
        await probe(key)
        if not queued_at_close:
            await policy.invalidate(2)  # at the last moment

    def closing(breaker: Breaker) -> None:
        queued_at_close.append(queued_invalidations(cache))
        close(breaker)

    monkeypatch.setattr(cache._store, "probe", probing)
    monkeypatch.setattr(Breaker, "close", closing)
    cache._breaker.open("a test")
    await policy.invalidate(1)
    await recovered(cache)
    assert queued_at_close == [0]
    for key in (1, 2):
        assert await policy.get_or_load(key, Source("new").load) == "new"


async def test_a_replay_that_fails_halfway_is_done_again(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = cache.policy("item", str, ttl=60)
    await policy.get_or_load(1, Source("old").load)
    replay, attempts = cache._store.replay, 0

    async def failing(*arguments: object) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise CacheUnavailable("cut", outage=True)
        await replay(*arguments)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(cache._store, "replay", failing)
    cache._breaker.open("a test")
    await policy.invalidate(1)
    await recovered(cache)
    assert attempts == 2
    assert await policy.get_or_load(1, Source("new").load) == "new"


async def test_the_breaker_does_not_close_while_something_waits(cache: Cache) -> None:
    policy = cache.policy("item", str, ttl=60)
    cache._breaker.open("a test")
    await policy.invalidate(1)
    with pytest.raises(CacheUnavailable, match="breaker is open, 1 invalidations wait"):
        await cache.check()
    await recovered(cache)
    await asyncio.sleep(0)
    assert queued_invalidations(cache) == 0


async def test_an_error_that_nobody_expected_does_not_end_the_recovery(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    ping, attempts = cache._store.ping, 0

    async def failing(key: str) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError("a mistake of ours")
        await ping(key)

    monkeypatch.setattr(cache._store, "ping", failing)
    cache._breaker.open("a test")
    await recovered(cache)
    assert attempts == 2


async def test_a_process_that_stops_carries_out_what_waits(
    shared_server: EmbeddedValkey, cache: Cache
) -> None:
    policy = cache.policy("item", str, ttl=60)
    await policy.get_or_load(1, Source("old").load)
    async with open_cache(shared_server.url) as stopping:
        stopping._breaker.open("a test")
        await stopping.policy("item", str, ttl=60).invalidate(1)
        assert await policy.get_or_load(1, Source("new").load) == "old"
    assert await policy.get_or_load(1, Source("new").load) == "new"


async def test_a_process_that_stops_while_redis_is_away_says_what_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with open_cache(f"redis://127.0.0.1:{port}") as cache:
        with capture_logs() as logs:
            await cache.policy("item", str, ttl=60).invalidate(1, 2)
            await cache.__aexit__(None, None, None)
    events = {entry["event"]: entry for entry in logs}
    assert events["cache.invalidations_lost"]["count"] == 2
    assert "an invalidation failed" in events["cache.breaker_opened"]["why"]
