"""What a stranger can make a service keep by making up keys: little, for a moment, and bounded."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from redis.asyncio import Redis

from app.core.cache import Cache, entry_codec, options
from app.core.cache.options import MADE_UP_BYTES_PER_MINUTE, SECOND_ASK_SECONDS, ByteBudget
from tests.core.cache.conftest import OpenCache
from tests.core.cache.counters import sample
from tests.core.cache.harness import value_keys
from tests.core.cache.http.serving import application, asking, status

BODY = "".join(f"{number:05}" for number in range(2_000))  # 10 KB, which compress to some 3
MARK_BYTES = 250
"""What a key that was asked for once may cost, with its name."""


def pages(cache: Cache, **options: Any) -> FastAPI:
    router = APIRouter()
    policy = cache.policy("page", **{"ttl": 60, "stale_if_error": 3600} | options)

    @router.get("/pages")
    @policy.http(public=True, tags=["pages"], second_ask=lambda cursor: cursor is not None)
    async def page(cursor: UUID | None = None, size: int = 20) -> str:
        return BODY

    @router.get("/all")
    @policy.http(public=True, second_ask=True)
    async def everything(cursor: str) -> str:
        return BODY

    return application(router)


async def stored(redis: Redis) -> tuple[int, float]:
    """How many bytes there are, with their names, and how long they stay at most, in seconds."""
    keys = await value_keys(redis)
    size = sum([await redis.memory_usage(key) or 0 for key in keys])
    return size, max([await redis.pttl(key) for key in keys], default=0) / 1000


async def made_up(client: AsyncClient, count: int, *, asks: int = 1) -> None:
    for _ in range(count):
        path = f"/pages?cursor={uuid4()}"
        for _ in range(asks):
            assert (await client.get(path)).json() == BODY


async def statuses(client: AsyncClient, path: str, count: int) -> list[str]:
    return [status(await client.get(path)) for _ in range(count)]


@pytest.mark.parametrize("path", [f"/pages?cursor={UUID(int=1)}", "/all?cursor=x"])
async def test_what_anybody_can_make_up_is_kept_at_the_second_ask(cache: Cache, path: str) -> None:
    async with asking(pages(cache)) as client:
        assert await statuses(client, path, 4) == ["fwd=miss", "fwd=miss", "hit", "hit"]


async def test_all_other_keys_are_kept_at_once(cache: Cache) -> None:
    async with asking(pages(cache)) as client:
        for path in ("/pages", "/pages?size=3"):
            assert await statuses(client, path, 3) == ["fwd=miss", "hit", "hit"]


async def test_one_ask_leaves_a_few_bytes_for_a_minute(cache: Cache, redis: Redis) -> None:
    async with asking(pages(cache)) as client:
        await made_up(client, 50)
    size, life = await stored(redis)
    assert 0 < size < 50 * MARK_BYTES
    assert 0 < life <= SECOND_ASK_SECONDS


async def test_control_without_it_one_ask_leaves_the_whole_page_for_an_hour(
    cache: Cache, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry_codec.EntryCodec, "admit", lambda _, __, raw, ttl: (raw, ttl))
    monkeypatch.setattr(entry_codec, "short_lived", lambda options: options)
    async with asking(pages(cache)) as client:
        await made_up(client, 50)
    size, life = await stored(redis)
    assert size > 50 * 2_000
    assert life > 3600


async def test_asking_twice_keeps_it_for_a_minute_or_two(cache: Cache, redis: Redis) -> None:
    async with asking(pages(cache)) as client:
        await made_up(client, 5, asks=2)
    size, life = await stored(redis)
    assert size > 5 * 2_000
    assert life <= 2 * SECOND_ASK_SECONDS


async def test_asking_twice_for_very_many_is_bounded_in_bytes(
    another: OpenCache, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = 40_000
    monkeypatch.setattr(entry_codec, "MADE_UP_BYTES_PER_MINUTE", allowed)
    monkeypatch.setattr(options, "monotonic", lambda: 0.0)  # no byte is regained
    before = sample("cache_stores_total", policy="page", outcome="over_budget")
    caches = [await another() for _ in range(2)]
    for cache in caches:
        async with asking(pages(cache)) as client:
            await made_up(client, 40, asks=2)
            # What is not made up is kept all the same.
            assert "hit" in await statuses(client, "/pages", 2)
    size, _ = await stored(redis)
    assert size < len(caches) * (allowed + 40 * MARK_BYTES) + 10_000
    assert sample("cache_stores_total", policy="page", outcome="over_budget") > before


async def test_a_crowd_that_asks_at_once_is_answered(another: OpenCache) -> None:
    path = f"/pages?cursor={uuid4()}"
    clients = [asking(pages(await another())) for _ in range(2)]
    answers = await asyncio.gather(*(client.get(path) for client in clients for _ in range(20)))
    assert {answer.json() for answer in answers} == {BODY}
    assert "hit" in await statuses(clients[0], path, 2)
    for client in clients:
        await client.aclose()


async def test_an_invalidated_page_was_asked_for_before(cache: Cache) -> None:
    path = f"/pages?cursor={uuid4()}"
    async with asking(pages(cache)) as client:
        await statuses(client, path, 2)
        await cache.invalidate_tags("pages")
        assert await statuses(client, path, 2) == ["fwd=miss", "hit"]


def test_the_allowance_comes_back_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(options, "monotonic", lambda: now)
    allowance = ByteBudget(MADE_UP_BYTES_PER_MINUTE)
    assert [allowance.take(MADE_UP_BYTES_PER_MINUTE), allowance.take(1)] == [True, False]
    now = 30.0
    assert [
        allowance.take(MADE_UP_BYTES_PER_MINUTE // 2 + 1),
        allowance.take(MADE_UP_BYTES_PER_MINUTE // 2),
    ] == [False, True]
    now = 600.0
    assert [allowance.take(MADE_UP_BYTES_PER_MINUTE), allowance.take(1)] == [True, False]


def test_a_function_of_what_is_no_parameter_is_refused(cache: Cache) -> None:
    policy = cache.policy("page", ttl=60)
    with pytest.raises(TypeError, match="second_ask of page depend on token"):

        @policy.http(public=True, second_ask=lambda token: bool(token))
        async def page(cursor: str) -> str:
            return cursor
