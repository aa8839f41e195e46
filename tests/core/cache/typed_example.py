"""Read by mypy only: what callers of the cache know about the types they get."""

from collections.abc import Sequence
from typing import assert_type

from app.core.cache import Cache, CachedFunction, CachePolicy


class Item:
    id: int


async def example(cache: Cache) -> None:
    policy = cache.policy("item", Item, ttl=60)
    assert_type(policy, CachePolicy[Item])

    async def load() -> Item:
        return Item()

    async def maybe() -> Item | None:
        return None

    async def load_many(ids: Sequence[int]) -> dict[int, Item]:
        return {id_: Item() for id_ in ids}

    assert_type(await policy.get_or_load(1, load), Item)
    assert_type(await policy.get_or_load(1, maybe), Item | None)
    assert_type(await policy.get_or_load_many([1, 2], load_many), dict[int, Item | None])

    @policy.cached(tags=["all"], ignore=["name"])
    async def find(id_: int, name: str = "") -> list[Item]:
        return []

    assert_type(await find(1, name="x"), list[Item])
    assert_type(await find.refresh(1), list[Item])
    assert_type(find.key(1), str)
    accepts: CachedFunction[..., list[Item]] = find
    await accepts.invalidate(1)
    # Each of these is an error; an ignore that is not needed would be one, too.
    await find("1")  # type: ignore[arg-type]  # not an int
    await find()  # type: ignore[call-arg]  # nothing
    find.key(id=1)  # type: ignore[call-arg]  # another name
    await find.invalidate(1, 2, 3)  # type: ignore[call-arg, arg-type]  # too many
