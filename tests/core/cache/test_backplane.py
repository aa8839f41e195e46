"""Near caches hear of every invalidation, after it was carried out, where the server allows it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.core.cache import Cache, CachePolicy, CacheUnavailable, backplane
from app.core.cache.backplane import Announcer
from app.core.redis import ClientOptions, create_client, pubsub
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import (
    PATIENT,
    Source,
    breaker_is_open,
    cache_of,
    is_healthy,
    queued_invalidations,
)
from tests.support.wire import Wire

WAYS: dict[str, Callable[[CachePolicy[str]], Awaitable[None]]] = {
    "key": lambda policy: policy.invalidate("key"),
    "tag": lambda policy: cache_of(policy).invalidate_tags("tag"),
    "clear": lambda policy: policy.clear(),
}


def policy_of(cache: Cache) -> CachePolicy[str]:
    return cache.policy("item", str, ttl=60, near_ttl=60)


async def read(policy: CachePolicy[str], value: str) -> str:
    return await policy.get_or_load("key", Source(value).load, tags=["tag"])


@asynccontextmanager
async def near_client(url: str) -> AsyncIterator[Redis]:
    options = ClientOptions(
        name="near", timeout=PATIENT, connect_timeout=PATIENT, pool_timeout=PATIENT
    )
    client = create_client(url, options)
    assert isinstance(client, Redis)
    yield client
    await client.aclose()


@pytest.fixture
async def near(redis: Redis, another: OpenCache) -> Cache:
    """A process with a near cache that hears."""
    cache = await another(near_bytes=100_000, near_client=redis)
    assert cache._near is not None
    await until(partial(getattr, cache._near, "is_online"))
    return cache


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_a_process_without_a_near_cache_announces(
    near: Cache, another: OpenCache, way: Callable[[CachePolicy[str]], Awaitable[None]]
) -> None:
    web, worker = policy_of(near), policy_of(await another())
    for _ in range(2):
        assert await read(web, "old") == "old"
    await way(worker)

    async def is_new() -> bool:
        return await read(web, "new") == "new"

    await until(is_new)


async def test_a_value_that_is_refreshed_is_announced(near: Cache, another: OpenCache) -> None:
    web, worker = policy_of(near), policy_of(await another())
    for _ in range(2):
        assert await read(web, "old") == "old"
    await worker.refresh("key", Source("new").load, tags=["tag"])

    async def is_new() -> bool:
        return await read(web, "newer") == "new"

    await until(is_new)


async def test_control_without_announcements_the_near_cache_keeps_the_old_value(
    near: Cache, another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, worker = policy_of(near), policy_of(await another())
    for _ in range(2):
        assert await read(web, "old") == "old"
    monkeypatch.setattr(Announcer, "messages", lambda *_: [])
    await worker.invalidate("key", strict=True)
    assert await read(worker, "new") == "new"
    assert await read(web, "newer") == "old"  # the violation


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_on_one_server_the_announcement_is_behind_the_deletion_on_its_connection(
    cache: Cache, wire: Wire, way: Callable[[CachePolicy[str]], Awaitable[None]]
) -> None:
    await way(policy_of(cache))
    last = wire.writes[-1]  # before it, the connection was made
    assert 0 <= last.index(b"UNLINK") < last.index(b"PUBLISH")


@pytest.fixture
async def url_without_channels(shared_server: EmbeddedValkey, redis: Redis) -> AsyncIterator[str]:
    """Of a user as Redis 7 makes them, who may use no channel."""
    await redis.execute_command("ACL", "SETUSER", "mute", "reset", "on", ">secret", "~*", "+@all")
    yield f"redis://mute:secret@{shared_server.host}:{shared_server.port}/0"
    await redis.execute_command("ACL", "DELUSER", "mute")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_without_channels_invalidations_count_and_only_the_near_cache_is_off(
    url_without_channels: str,
    cache: Cache,
    redis: Redis,
    another: OpenCache,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[CachePolicy[str]], Awaitable[None]],
) -> None:
    monkeypatch.setattr(pubsub, "_RETRY_REFUSED_AFTER", 0.05)
    monkeypatch.setattr(backplane, "_TRY_AGAIN_SECONDS", 0)
    other = policy_of(cache)
    async with near_client(url_without_channels) as client:
        with capture_logs() as logs:
            muted = await another(url_without_channels, near_bytes=100_000, near_client=client)
            policy = policy_of(muted)
            assert await read(other, "old") == "old"
            for _ in range(5):
                await way(policy)
            assert await read(other, "new") == "new"
            assert await read(policy, "newer") == "new"
            assert muted._backplane is not None
            await until(lambda: muted._backplane is not None and muted._backplane.refusal)
            with pytest.raises(CacheUnavailable, match=r"the near cache is off: .*permission"):
                await muted.check()
        told = [entry["event"] for entry in logs]
        assert told.count("cache.not_announced") == 1
        assert told.count("cache.backplane_lost") == 1
        assert "cache.breaker_opened" not in told
        assert not breaker_is_open(muted)
        assert queued_invalidations(muted) == 0
        await redis.execute_command("ACL", "SETUSER", "mute", "allchannels")
        await way(policy)
        await until(partial(is_healthy, muted))
        assert muted._near is not None
        assert muted._near.is_online
        await muted.__aexit__(None, None, None)  # before its client is closed


async def test_without_channels_a_service_without_a_near_cache_is_well(
    url_without_channels: str, another: OpenCache
) -> None:
    muted = await another(url_without_channels)
    policy = policy_of(muted)
    assert await read(policy, "old") == "old"
    await policy.invalidate("key", strict=True)
    assert await read(policy, "new") == "new"
    await muted.check()
