"""A hit returns what the miss returned, whatever it was."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, SecretStr, field_serializer, field_validator
from redis.asyncio import Redis

from app.core.cache import Cache
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.counters import misses
from tests.core.cache.harness import Source, value_keys
from tests.core.serializers.codecs import SERIALIZERS


class Item(BaseModel):
    id: int
    name: str = Field(alias="itemName")
    price: Decimal | None = None


@dataclass
class Point:
    x: int
    y: float


ITEM = Item(id=1, itemName="a", price=Decimal("1.50"))
VALUES: list[tuple[Any, Any]] = [
    *[(int, 0), (int, -1), (bool, False), (bool, True), (float, 0.0), (str, ""), (str, "\x00é")],
    *[(list[int], []), (dict[str, int], {}), (tuple[int, str], (1, "a")), (set[int], {1, 2})],
    *[(type(None), None), (int | None, None), (int | None, 0), (Literal["a", "b"], "a")],
    *[(datetime, datetime(2020, 1, 1, tzinfo=UTC)), (date, date(2020, 1, 1))],
    *[(UUID, UUID(int=1)), (bytes, b"abc"), (Decimal, Decimal("0.10")), (Point, Point(1, 2.5))],
    *[(Item, ITEM), (list[Item], [ITEM, ITEM]), (dict[int, Item], {1: ITEM}), (Any, {"a": [1]})],
    *[(str, "long " * 10_000), (list[Item | Point], [ITEM, Point(1, 2)])],
]  # fmt: skip


@pytest.fixture(params=SERIALIZERS)
async def cache(request: pytest.FixtureRequest, another: OpenCache) -> Cache:
    return await another(serializer=SERIALIZERS[request.param])


@pytest.mark.parametrize(("type_", "value"), VALUES, ids=lambda part: str(part)[:30])
async def test_a_hit_is_equal_and_of_the_same_type(cache: Cache, type_: Any, value: Any) -> None:
    policy, source = cache.policy("item", type_, ttl=60), Source(value)
    miss = await policy.get_or_load(1, source.load)
    hit = await policy.get_or_load(1, source.load)
    assert (hit, type(hit), source.loads) == (miss, type(miss), 1)


async def test_callers_of_a_hit_do_not_share_a_value(cache: Cache) -> None:
    policy, source = cache.policy("item", list[int], ttl=60), Source([1])
    await policy.get_or_load(1, source.load)
    one, other = await asyncio.gather(*(policy.get_or_load(1, source.load) for _ in range(2)))
    one.append(2)
    assert other == [1]


@pytest.mark.parametrize("negative_ttl", [None, 60])
async def test_none_is_a_value(cache: Cache, negative_ttl: float | None) -> None:
    policy = cache.policy("item", str, ttl=60, negative_ttl=negative_ttl)
    source: Source[str | None] = Source(None)
    for _ in range(3):
        assert await policy.get_or_load(1, source.load) is None
    assert source.loads == 1


async def test_none_has_a_life_of_its_own(cache: Cache, redis: Redis) -> None:
    policy = cache.policy("item", str, ttl=60, negative_ttl=0.03, jitter=0)
    source: Source[str | None] = Source(None)
    await policy.get_or_load(1, source.load)
    await until(partial(nothing_is_kept, redis))
    source.value = "found"
    assert await policy.get_or_load(1, source.load) == "found"
    await asyncio.sleep(0.04)
    assert await policy.get_or_load(1, source.load) == "found"
    assert source.loads == 2


async def nothing_is_kept(redis: Redis) -> bool:
    return await value_keys(redis) == []


async def test_with_a_negative_ttl_of_0_none_is_not_kept(cache: Cache, redis: Any) -> None:
    policy = cache.policy("item", str, ttl=60, negative_ttl=0)
    source: Source[str | None] = Source(None)
    for _ in range(3):
        assert await policy.get_or_load(1, source.load) is None
    assert source.loads == 3
    assert await value_keys(redis) == []


class Odd(BaseModel):
    name: str

    @field_serializer("name")
    def fail(self, name: str) -> str:
        raise KeyError(name)


@pytest.mark.parametrize(
    ("type_", "value"),
    [(int, "not a number"), (Item, {"id": 1}), (SecretStr, SecretStr("a")), (Odd, Odd(name="a"))],
    ids=["str", "dict", "secret", "serializer"],
)
async def test_what_cannot_be_stored_is_returned_all_the_same(
    another: OpenCache, redis: Any, type_: Any, value: Any
) -> None:
    cache = await another()
    policy, source = cache.policy("item", type_, ttl=60), Source(value)
    for _ in range(2):
        async with asyncio.timeout(HANG):
            assert await policy.get_or_load(1, source.load) == value
    assert source.loads == 2
    assert await redis.keys("*:lease") == []


async def test_a_ttl_may_be_ten_years_and_no_more(cache: Cache) -> None:
    longest = 10 * 365 * 24 * 3600
    with pytest.raises(ValueError, match=r"ttl must be .* at most"):
        cache.policy("item", int, ttl=longest + 1)
    policy = cache.policy("item", int, ttl=longest, stale_if_error=longest)
    source = Source(1)
    for _ in range(2):
        assert await policy.get_or_load(1, source.load) == 1
    assert source.loads == 1


UNWANTED: set[int] = set()


class Strict(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _is_wanted(cls, number: int) -> int:
        if number in UNWANTED:
            raise LookupError(number)  # no error that pydantic knows
        return number


# A pickle brings an instance back as it was, without asking any validator.
@pytest.mark.parametrize("cache", sorted(SERIALIZERS.keys() - {"pickle"}), indirect=True)
async def test_what_a_validator_of_today_refuses_is_loaded_anew(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, source = cache.policy("strict", Strict, ttl=60), Source(Strict(number=1))
    await policy.get_or_load(1, source.load)
    before = misses("strict", "corrupt")
    monkeypatch.setattr(f"{__name__}.UNWANTED", {1})
    source.value = Strict(number=2)
    assert await policy.get_or_load(1, source.load) == Strict(number=2)
    assert misses("strict", "corrupt") == before + 1
