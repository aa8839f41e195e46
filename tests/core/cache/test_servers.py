"""Every step of the cache on every server that it supports: none of them refuses a command."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache, fill
from app.core.cache.loading import Lookup
from app.core.redis import ClientOptions
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.cache.harness import Clock, Source, lease_keys, open_cache
from tests.support.clients import standalone_client
from tests.support.versions import VERSIONS

TTL = 60.0


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey]:
    with request.param() as server:
        yield server


@pytest.fixture
async def admin(server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """At the end no command may have been an error, but for scripts that were not known yet."""
    client = standalone_client(server.url, ClientOptions(name="admin"))
    await client.flushall()
    await client.config_resetstat()
    yield client
    errors = await client.info("errorstats")
    await client.aclose()
    assert set(errors) <= {"errorstat_NOSCRIPT"}, errors


@pytest.fixture
async def cache(server: EmbeddedValkey, admin: Redis) -> AsyncIterator[Cache]:
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(
            open_cache(server.url, near_bytes=100_000, near_client=admin)
        )
        yield cache


async def test_what_is_read_six_times_is_loaded_once(cache: Cache) -> None:
    policy, source = cache.policy("item", int, ttl=TTL), Source(1)
    for _ in range(6):
        assert await policy.get_or_load(1, source.load, tags=["one", "two"]) == 1
    assert source.loads == 1


async def test_many_are_loaded_once(cache: Cache) -> None:
    policy, asked = cache.policy("item", int, ttl=TTL), []

    async def load(keys: Sequence[int]) -> dict[int, int]:
        asked.append(len(keys))
        return {key: key for key in keys}

    for _ in range(3):
        await policy.get_or_load_many(range(50), load, tags=["one"])
    assert asked == [50]


@pytest.mark.parametrize("how", ["key", "tag", "clear"])
async def test_invalidations_are_carried_out(cache: Cache, how: str) -> None:
    policy, source = cache.policy("item", int, ttl=TTL), Source(1)
    for loads in (1, 2):
        for _ in range(2):
            await policy.get_or_load(1, source.load, tags=["tag"])
        assert source.loads == loads
        if how == "key":
            await policy.invalidate(1, strict=True)
        elif how == "tag":
            await cache.invalidate_tags("tag", strict=True)
        else:
            await policy.clear(strict=True)


async def test_stale_entries_are_refreshed_and_failures_throttled(
    cache: Cache, admin: Redis, clock: Clock
) -> None:
    policy = cache.policy(
        "item", int, ttl=TTL, stale_while_revalidate=600, stale_if_error=3600, error_throttle=60
    )
    source = Source(1)
    await policy.get_or_load(1, source.load)
    clock.advance(TTL)
    source.value = 2

    async def is_refreshed() -> bool:
        return await policy.get_or_load(1, source.load) == 2

    await until(is_refreshed)
    clock.advance(TTL + 600)
    source.error = OSError("down")
    assert await policy.get_or_load(1, source.load) == 2
    (lease,) = await lease_keys(admin)
    assert await admin.get(lease) == b"throttled"
    source.error, source.value = None, 3
    assert await policy.refresh(1, source.load) == 3
    assert await lease_keys(admin) == []


async def test_a_long_load_keeps_its_lease(
    cache: Cache, admin: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "_RENEW_INTERVAL_SECONDS", 0.01)
    policy, source = cache.policy("item", int, ttl=TTL), Source(1)
    source.hold()
    loading = asyncio.create_task(policy.get_or_load(1, source.load))
    await source.started.wait()
    renewed: list[list[bool]] = []
    renew = cache._store.renew_leases

    async def noted(*arguments: Any) -> list[bool]:
        renewed.append(await renew(*arguments))
        return renewed[-1]

    monkeypatch.setattr(cache._store, "renew_leases", noted)
    await until(lambda: len(renewed) > 2)
    source.release()
    assert await loading == 1
    assert renewed[0] == [True]
    assert await policy.get_or_load(1, source.load) == 1
    assert source.loads == 1


async def test_what_is_asked_for_once_leaves_a_mark(cache: Cache) -> None:
    calls = 0

    @cache.policy("page", ttl=TTL).http(public=True, second_ask=True)
    async def page(cursor: str) -> str:
        nonlocal calls
        calls += 1
        return cursor

    async def produce() -> Any:
        return await page.builder.build({"cursor": "x"})

    lookup = Lookup(page._made_up_codec, page.entry_keys({"cursor": "x"}, None), produce)
    for _ in range(4):
        await cache.engine.get(lookup)
    assert calls == 2


async def test_the_servers_time_is_compared(cache: Cache) -> None:
    await cache.policy("item", int, ttl=TTL).get_or_load(1, Source(1).load)
    await cache.check()
    assert not cache._store.clock.is_due
