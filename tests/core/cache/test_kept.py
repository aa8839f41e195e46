"""A loader says how long its value is kept, or that it is not; callers get the value alone."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy, Kept, do_not_keep, keep
from app.core.cache import fill as fill_module
from app.core.cache.loading import Lookup
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.counters import misses
from tests.core.cache.harness import (
    Clock,
    Source,
    cache_of,
    keys_of,
    lease_keys,
    value_keys,
    waiting_callers,
)

TTL, STALE, LONG = 60, 30, 3600
OPTIONS: dict[str, Any] = {
    "ttl": TTL, "jitter": 0, "stale_while_revalidate": STALE, "stale_if_error": LONG,
    "error_patience": HANG, "lease_wait": HANG, "loader_timeout": 10 * HANG,
}  # fmt: skip

Result = int | Kept[int]
Ask = Callable[[], Awaitable[Any]]
Way = Callable[[CachePolicy[int], Source[Any]], tuple[Ask, Ask | None]]
"""Gives how a value is read, and how it is refreshed."""


def by_key(policy: CachePolicy[int], source: Source[Any]) -> tuple[Ask, Ask | None]:
    return (
        lambda: policy.get_or_load(1, source.load, tags=["tag"]),
        lambda: policy.refresh(1, source.load, tags=["tag"]),
    )


def many(policy: CachePolicy[int], source: Source[Any]) -> tuple[Ask, Ask | None]:
    async def load(keys: Sequence[int]) -> dict[int, Any]:
        return {1: await source.load()}

    async def read() -> int | None:
        return (await policy.get_or_load_many([1], load, tags=["tag"]))[1]

    return read, None


def function(policy: CachePolicy[int], source: Source[Any]) -> tuple[Ask, Ask | None]:
    @policy.cached(tags=["tag"])
    async def find(id_: int) -> Kept[int]:
        result: Kept[int] = await source.load()
        return result

    return partial(find, 1), partial(find.refresh, 1)


def route(policy: CachePolicy[int], source: Source[Any]) -> tuple[Ask, Ask | None]:
    @policy.http(public=True, tags=["tag"])
    async def show(id_: int) -> Kept[int]:
        result: Kept[int] = await source.load()
        return result

    async def read() -> int:
        async def produce() -> Any:
            return await show.builder.build({"id_": 1})

        lookup = Lookup(show.codec, show.entry_keys({"id_": 1}, None), produce)
        return int((await cache_of(policy).engine.get(lookup)).value.body)

    return read, partial(show.refresh, id_=1)


WAYS = [by_key, many, function, route]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


async def life(redis: Redis) -> float:
    """For how many seconds the one entry stays, stale times included."""
    (key,) = await value_keys(redis)
    return await redis.pttl(key) / 1000


@pytest.mark.parametrize(
    ("ttl", "stays"),
    [
        (None, TTL + LONG),
        (TTL / 2, TTL / 2 + LONG / 2),  # stale times in proportion
        (0.5, 0.5 + LONG / 120),
        (10 * TTL, 10 * TTL + LONG),  # and never longer
    ],
)
async def test_a_value_stays_as_long_as_its_loader_says(
    cache: Cache, redis: Redis, way: Way, ttl: float | None, stays: float
) -> None:
    read, _ = way(cache.policy("item", int, **OPTIONS), Source(keep(7, ttl=ttl)))
    assert [await read(), await read()] == [7, 7]
    assert stays - HANG < await life(redis) <= stays


async def test_it_is_fresh_then_stale_then_gone(cache: Cache, way: Way, clock: Clock) -> None:
    source = Source(keep(1, ttl=TTL / 2))
    read, _ = way(cache.policy("item", int, **OPTIONS), source)
    await read()
    source.value = keep(2, ttl=TTL / 2)
    clock.advance(TTL / 2 - 10)
    assert (await read(), source.loads) == (1, 1)
    clock.advance(10 + STALE / 2 - 10)
    source.hold()
    assert await read() == 1  # stale
    await source.started.wait()
    source.release()
    await until(lambda: not cache.engine.loads)
    clock.advance(TTL / 2 + STALE / 2)  # gone by now, by the policy's times it would be stale
    source.value = keep(3)
    assert (await read(), source.loads) == (3, 3)


async def test_the_jitter_of_the_policy_makes_it_shorter_only(cache: Cache) -> None:
    codec = cache.policy("item", int, ttl=TTL, jitter=0.5)._make_codec(int)
    entries = [codec.new_entry(1, 0, b"", 10.0) for _ in range(200)]
    lives = [entry.fresh_until - entry.created for entry in entries]
    assert 5_000 <= min(lives) < max(lives) <= 10_000


async def test_refreshing_early_knows_the_time_of_the_value(cache: Cache) -> None:
    """A load that is slow beside the ttl is not repeated by every second read of a new value."""
    codec = cache.policy("item", int, ttl=LONG, jitter=0)._make_codec(int)
    entry = codec.new_entry(1, cost=10, versions=b"", own_ttl=8)
    due = sum(codec.is_due(entry, entry.created) for _ in range(2_000))
    assert due < 200  # exp(-4) of them; with the time of the policy exp(-0.8)


async def test_what_is_not_kept_is_loaded_for_each_who_comes(
    cache: Cache, redis: Redis, way: Way
) -> None:
    source = Source(do_not_keep(1))
    read, _ = way(cache.policy("item", int, **OPTIONS), source)
    before = misses("item", "not_kept")
    assert [await read() for _ in range(3)] == [1, 1, 1]
    assert source.loads == 3
    assert misses("item", "not_kept") == before + 2
    assert await lease_keys(redis) == []
    # The next value, which is to be kept, is kept at once.
    source.value = keep(2)
    assert [await read() for _ in range(3)] == [2, 2, 2]
    assert source.loads == 4


async def test_it_leaves_a_few_bytes_for_the_time_of_a_load(cache: Cache, redis: Redis) -> None:
    policy = cache.policy("item", str, **OPTIONS | {"loader_timeout": 20})
    await policy.get_or_load(1, Source(do_not_keep("secret " * 1_000)).load)
    (key,) = await value_keys(redis)
    left = await redis.get(key)
    assert left is not None
    assert len(left) <= 16
    assert await life(redis) <= 20


async def test_callers_at_the_same_moment_share_a_load_and_get_the_value(
    cache: Cache, way: Way
) -> None:
    source = Source(do_not_keep(1))
    read, _ = way(cache.policy("item", int, **OPTIONS), source)
    source.hold()
    reads = [asyncio.ensure_future(read()) for _ in range(50)]
    await source.started.wait()
    # `get_or_load_many` waits under a name of its own, and the other calls each for the one key.
    await until(lambda: waiting_callers(cache) == 50)
    source.release()
    assert await asyncio.gather(*reads) == [1] * 50
    assert source.loads < 4


def ten_callers_wait(cache: Cache) -> bool:
    return waiting_callers(cache) == 10


async def processes(
    another: OpenCache, count: int
) -> tuple[list[Source[Any]], list[asyncio.Future[Any]]]:
    """As many processes, with callers for one key; the first one loads, the others wait for it."""
    sources = [Source[Any](do_not_keep(number)) for number in range(count)]
    caches = [await another() for _ in sources]
    tasks: list[asyncio.Future[Any]] = []
    for cache, source in zip(caches, sources, strict=True):
        source.hold()
        read, _ = by_key(cache.policy("item", int, **OPTIONS), source)
        tasks += [asyncio.ensure_future(read()) for _ in range(10)]
        await until(partial(ten_callers_wait, cache))
        await sources[0].started.wait()
    return sources, tasks


async def test_processes_that_wait_for_it_load_once_each_and_not_in_turn(
    another: OpenCache, redis: Redis
) -> None:
    sources, tasks = await processes(another, 4)
    assert [source.loads for source in sources] == [1, 0, 0, 0]
    sources[0].release()
    # Nobody waits for the next one: all of them load while none is done.
    for source in sources[1:]:
        async with asyncio.timeout(HANG):
            await source.started.wait()
    for source in sources:
        source.release()
    assert await asyncio.gather(*tasks) == [n for n in range(4) for _ in range(10)]
    assert [source.loads for source in sources] == [1, 1, 1, 1]
    assert await lease_keys(redis) == []


async def test_control_without_the_mark_they_wait_for_one_another(
    another: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill_module, "mark", lambda _: b"")
    sources, tasks = await processes(another, 4)
    sources[0].release()
    await until(lambda: sum(source.loads for source in sources) == 2)
    await asyncio.sleep(1)  # they look three times a second
    assert sum(source.loads for source in sources) == 2
    for source in sources:
        source.release()
    await asyncio.gather(*tasks)


async def test_what_a_process_that_waits_may_keep_is_kept(another: OpenCache) -> None:
    sources, tasks = await processes(another, 2)
    sources[1].value = keep(5)
    for source in sources:
        source.release()
    assert await asyncio.gather(*tasks) == [0] * 10 + [5] * 10
    read, _ = by_key((await another()).policy("item", int, **OPTIONS), Source(keep(6)))
    assert await read() == 5


@pytest.mark.parametrize("way", [by_key, function, route], ids=lambda way: way.__name__)
async def test_a_refresh_obeys_it(cache: Cache, redis: Redis, way: Way) -> None:
    source = Source(keep(1))
    read, refresh = way(cache.policy("item", int, **OPTIONS), source)
    assert refresh is not None
    await read()
    source.value = keep(2, ttl=TTL / 2)
    await refresh()
    assert (await read(), source.loads) == (2, 2)
    assert await life(redis) <= TTL / 2 + LONG / 2
    source.value = do_not_keep(3)
    await refresh()
    assert (await read(), source.loads) == (3, 4)


async def test_a_refresh_in_the_background_takes_away_what_was_overtaken(
    cache: Cache, way: Way, clock: Clock
) -> None:
    source = Source(keep(1))
    read, _ = way(cache.policy("item", int, **OPTIONS), source)
    await read()
    clock.advance(TTL)
    source.value = do_not_keep(2)
    assert await read() == 1  # stale
    await until(lambda: source.finished == 2 and not cache.engine.loads)
    assert (await read(), source.loads) == (2, 3)


async def test_each_of_many_says_it_for_itself(cache: Cache, redis: Redis) -> None:
    policy, asked = cache.policy("item", int, **OPTIONS, negative_ttl=5), []

    async def load(keys: Sequence[int]) -> dict[int, int | Kept[int | None]]:
        asked.append(list(keys))
        told: dict[int, int | Kept[int | None]] = {
            1: 1,
            2: keep(2, ttl=6),
            3: do_not_keep(3),
            4: keep(None, ttl=600),
        }
        return {key: told[key] for key in keys if key in told}  # 5 is not there

    for _ in range(2):
        found = await policy.get_or_load_many([1, 2, 3, 4, 5], load)
        assert found == {1: 1, 2: 2, 3: 3, 4: None, 5: None}
    assert asked == [[1, 2, 3, 4, 5], [3]]
    ttls = {
        number: await redis.pttl(keys_of(policy, number).value) / 1000 for number in (1, 2, 4, 5)
    }
    for number, longest in {1: TTL + LONG, 2: 6 + LONG / 10, 4: 1200, 5: 10}.items():
        assert longest - HANG < ttls[number] <= longest


@pytest.mark.parametrize(("negative_ttl", "loads"), [(0, 2), (600, 1), (None, 1)])
async def test_none_without_a_word_lives_for_its_negative_ttl(
    cache: Cache, negative_ttl: float | None, loads: int
) -> None:
    policy = cache.policy("item", int, **OPTIONS, negative_ttl=negative_ttl)
    source: Source[Kept[int | None]] = Source(keep(None))
    for _ in range(2):
        assert await policy.get_or_load(1, source.load) is None
    assert source.loads == loads


async def test_none_may_have_a_ttl_or_not_be_kept(cache: Cache) -> None:
    policy = cache.policy("item", int, **OPTIONS, negative_ttl=0)
    source: Source[Kept[int | None]] = Source(keep(None, ttl=60))
    for _ in range(2):
        assert await policy.get_or_load(1, source.load) is None
    source.value = do_not_keep(None)
    for _ in range(2):
        assert await policy.get_or_load(2, source.load) is None
    assert source.loads == 3


async def test_the_memory_of_the_process_keeps_nothing_for_longer(
    another: OpenCache, redis: Redis
) -> None:
    cache = await another(near_bytes=100_000, near_client=redis)
    near = cache._near
    assert near is not None
    await until(lambda: near.is_online)
    policy = cache.policy("item", int, ttl=60, near_ttl=60)
    source = Source[Result](keep(1, ttl=0.05))
    for _ in range(2):
        await policy.get_or_load(1, source.load)
    source.value = keep(2)

    async def read() -> int:
        return await policy.get_or_load(1, source.load)

    async def is_new() -> bool:
        return await read() == 2

    await until(is_new)
    await read()
    assert near.get(keys_of(policy, 1).value) is not None
    source.value = do_not_keep(3)
    await policy.refresh(1, source.load)
    source.value = do_not_keep(4)
    assert [await read(), await read()] == [4, 4]


async def test_without_redis_callers_get_the_value_all_the_same(cache: Cache, way: Way) -> None:
    read, _ = way(cache.policy("item", int, **OPTIONS), Source(keep(1, ttl=5)))
    cache._breaker.open("a test")
    assert await read() == 1


async def test_a_failing_load_is_covered_by_what_was_kept_with_a_ttl(
    cache: Cache, clock: Clock
) -> None:
    policy, source = cache.policy("item", int, **OPTIONS), Source[Result](keep(1, ttl=6))
    await policy.get_or_load(1, source.load)
    source.error = OSError("down")
    clock.advance(6 + LONG / 10 - 10)
    assert await policy.get_or_load(1, source.load) == 1
    clock.advance(20)
    with pytest.raises(OSError, match="down"):
        await policy.get_or_load(1, source.load)


@pytest.mark.parametrize("annotation", ["Kept[int]", "Kept[int] | int", "Kept[int | None] | int"])
async def test_the_type_of_the_values_is_seen_through_it(cache: Cache, annotation: str) -> None:
    async def load() -> Any:
        return keep(1)

    async def load_many(keys: Sequence[int]) -> Any:
        return {key: keep(key) for key in keys}

    load.__annotations__["return"] = annotation
    load_many.__annotations__["return"] = f"dict[int, {annotation}]"
    policy = cache.policy("item", ttl=60)
    for _ in range(2):
        assert await policy.get_or_load(1, load) == 1
        assert await policy.get_or_load_many([2], load_many) == {2: 2}


async def test_a_function_says_it_always_or_never(cache: Cache) -> None:
    """Callers would have to reckon with what they never get."""
    with pytest.raises(TypeError, match=r"annotate Kept\[...\] alone, and return keep\(value\)"):

        @cache.policy("item", ttl=60).cached()
        async def find(id_: int) -> Kept[int] | int:
            return id_


@pytest.mark.parametrize(
    ("ttl", "error"),
    [
        (0, "ttl must be more than 0 seconds, not 0: .* do_not_keep"),
        (-1, "more than 0"),
        (float("nan"), "more than 0"),
        (float("inf"), "ten years"),
        (10**9, "ten years"),
        ("60", "a number of seconds, not '60'"),
        (True, "a number of seconds"),
        (timedelta(seconds=1), "a number of seconds"),
    ],
)
async def test_a_wrong_ttl_is_told_to_callers_and_keeps_no_lease(
    cache: Cache, redis: Redis, ttl: Any, error: str
) -> None:
    async def load() -> Kept[int]:
        return keep(1, ttl=ttl)

    with pytest.raises((ValueError, TypeError), match=error):
        await cache.policy("item", int, ttl=60).get_or_load(1, load)
    assert await lease_keys(redis) == []


def test_it_is_said_once() -> None:
    with pytest.raises(TypeError, match="said once"):
        do_not_keep(keep(1))
