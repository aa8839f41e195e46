"""Refreshing in place: the old value is there until the new one is, and stays if there is none."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy
from app.core.cache import engine as engine_module
from app.core.cache.loading import Lookup
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Source, cache_of, is_healthy, lease_keys

# A minute of patience, which nobody needs: the old value comes at once.
OPTIONS: dict[str, Any] = {"ttl": 60, "lease_wait": HANG, "error_patience": HANG}


class Cached:
    """One value in one of the ways to cache it."""

    def __init__(
        self, policy: CachePolicy[int], source: Source[int], read: Callable[[], Awaitable[Any]],
        refresh: Callable[[], Awaitable[Any]],
    ) -> None:  # fmt: skip
        self.policy = policy
        self.source = source
        self.read = read
        self.refresh = refresh


def by_key(policy: CachePolicy[int], source: Source[int]) -> Cached:
    return Cached(
        policy,
        source,
        lambda: policy.get_or_load(1, source.load, tags=["t"]),
        lambda: policy.refresh(1, source.load, tags=["t"]),
    )


def function(policy: CachePolicy[int], source: Source[int]) -> Cached:
    @policy.cached(tags=["t"])
    async def find(key: int) -> int:
        return await source.load()

    return Cached(policy, source, lambda: find(1), lambda: find.refresh(1))


def route(policy: CachePolicy[int], source: Source[int]) -> Cached:
    @policy.http(public=True, tags=["t"])
    async def show(key: int) -> int:
        return await source.load()

    async def read() -> int:
        address = show.entry_keys({"key": 1}, None)

        async def produce() -> Any:
            return await show.builder.build({"key": 1})

        lookup = Lookup(show.codec, address, produce)
        return int((await cache_of(policy).engine.get(lookup)).value.body)

    async def refresh() -> int:
        await show.refresh(key=1)
        return await read()

    return Cached(policy, source, read, refresh)


MAKERS = [by_key, function, route]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def make(request: pytest.FixtureRequest) -> Callable[..., Cached]:
    maker = request.param

    def make(cache: Cache, source: Source[int], **options: Any) -> Cached:
        made: Cached = maker(cache.policy("item", int, **OPTIONS | options), source)
        return made

    return make


async def refreshing(cached: Cached) -> asyncio.Task[Any]:
    """A refresh whose load is under way."""
    cached.source.hold()
    task = asyncio.ensure_future(cached.refresh())
    await cached.source.started.wait()
    return task


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ttl": 0.001, "jitter": 0, "stale_while_revalidate": 3600},
        {"ttl": 0.001, "jitter": 0, "stale_if_error": 3600, "error_patience": 0},
    ],
    ids=["fresh", "stale", "expired"],
)
async def test_reads_get_the_old_value_until_the_new_one_is_there(
    cache: Cache, make: Callable[..., Cached], options: dict[str, Any]
) -> None:
    cached = make(cache, Source(1), **options)
    assert await cached.read() == 1
    cached.source.value = 2
    task = await refreshing(cached)
    assert [await cached.read() for _ in range(3)] == [1, 1, 1]
    assert not task.done()
    cached.source.release()
    await task
    await until(lambda: cached.source.finished >= 2)
    if not options:
        assert (await cached.read(), cached.source.loads) == (2, 2)


async def test_a_refresh_that_fails_says_so_and_leaves_the_old_value(
    cache: Cache, make: Callable[..., Cached], redis: Redis
) -> None:
    cached = make(cache, Source(1), stale_if_error=3600)
    assert await cached.read() == 1
    cached.source.error = OSError("the source is down")
    with pytest.raises(OSError, match="the source is down"):
        await cached.refresh()
    assert (await cached.read(), cached.source.loads) == (1, 2)
    assert await lease_keys(redis) == []


async def test_it_fills_what_is_not_there_and_reads_wait_for_it(
    another: OpenCache, make: Callable[..., Cached]
) -> None:
    here, there = make(await another(), Source(1)), make(await another(), Source(2))
    task = await refreshing(here)
    reads = [asyncio.ensure_future(cached.read()) for cached in (here, there)]
    here.source.release()
    await task
    assert await asyncio.gather(*reads) == [1, 1]
    assert (here.source.loads, there.source.loads) == (1, 0)


async def test_what_was_loaded_before_it_is_not_stored_after_it(
    another: OpenCache, make: Callable[..., Cached]
) -> None:
    slow, quick = make(await another(), Source(1)), make(await another(), Source(2))
    slow.source.hold()
    loading = asyncio.ensure_future(slow.read())
    await slow.source.started.wait()
    await quick.refresh()
    slow.source.release()
    assert await loading == 1
    assert (await quick.read(), await slow.read()) == (2, 2)


@pytest.mark.parametrize("how", ["clear", "invalidate_tags"])
async def test_an_invalidation_meanwhile_wins(
    cache: Cache, make: Callable[..., Cached], how: str
) -> None:
    cached = make(cache, Source(1))
    await cached.read()
    task = await refreshing(cached)
    await (cached.policy.clear() if how == "clear" else cache.invalidate_tags("t"))
    cached.source.value = 3
    cached.source.release()
    await task
    assert await cached.read() == 3


async def test_while_redis_is_away_the_value_is_computed_and_the_old_one_removed(
    cache: Cache, make: Callable[..., Cached]
) -> None:
    cached = make(cache, Source(1))
    await cached.read()
    cache._breaker.open("a test")
    cached.source.value = 2
    await cached.refresh()

    async def healthy() -> bool:
        return await is_healthy(cache)

    await until(healthy)
    cached.source.value = 3
    assert await cached.read() == 3


async def test_a_cancelled_refresh_leaves_everything_as_it_was(
    cache: Cache, make: Callable[..., Cached], redis: Redis
) -> None:
    cached = make(cache, Source(1))
    await cached.read()
    task = await refreshing(cached)
    task.cancel()
    await until(lambda: cached.source.cancelled == 1)

    async def no_lease() -> bool:
        return await lease_keys(redis) == []

    await until(no_lease)
    assert await cached.read() == 1


async def test_the_memory_of_the_process_does_not_keep_the_old_value(
    another: OpenCache, make: Callable[..., Cached], redis: Redis
) -> None:
    cache = await another(near_bytes=100_000, near_client=redis)
    near = cache._near
    assert near is not None
    await until(lambda: near.is_online)
    cached = make(cache, Source(1), near_ttl=60)
    for _ in range(2):
        await cached.read()
    cached.source.value = 2
    await cached.refresh()
    assert (await cached.read(), cached.source.loads) == (2, 2)


async def test_control_deleting_first_makes_reads_wait(
    cache: Cache, make: Callable[..., Cached], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = engine_module.Engine._replace

    async def deleting(engine: Any, lookup: Any) -> Any:
        await engine._store.delete([(lookup.keys.value, lookup.keys.lease)])
        return await replace(engine, lookup)

    monkeypatch.setattr(engine_module.Engine, "_replace", deleting)
    cached = make(cache, Source(1))
    await cached.read()
    task = await refreshing(cached)
    reading = asyncio.ensure_future(cached.read())
    done, _ = await asyncio.wait([reading], timeout=0.2)
    assert not done
    cached.source.release()
    await asyncio.gather(task, reading)
