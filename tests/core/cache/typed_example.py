"""Read by mypy only: what callers of the cache know about the types they get."""

from collections.abc import Sequence
from typing import assert_type

from app.core.cache import Cache, CachedFunction, CachePolicy, Kept, do_not_keep, keep


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


async def said_by_loaders(cache: Cache) -> None:
    policy = cache.policy("item", Item, ttl=60)

    async def load() -> Kept[Item]:
        return keep(Item(), ttl=5)

    async def either() -> Kept[Item] | Item:
        return do_not_keep(Item())

    async def maybe() -> Kept[Item] | Kept[None] | None:
        return keep(None)

    async def maybe_not() -> Kept[Item | None]:
        return keep(None, ttl=5)

    async def load_many(ids: Sequence[int]) -> dict[int, Item | Kept[Item]]:
        return {id_: keep(Item()) for id_ in ids}

    assert_type(await policy.get_or_load(1, load), Item)
    assert_type(await policy.get_or_load(1, either), Item)
    assert_type(await policy.get_or_load(1, maybe), Item | None)
    assert_type(await policy.get_or_load(1, maybe_not), Item | None)
    assert_type(await policy.refresh(1, load), Item)
    assert_type(await policy.get_or_load_many([1, 2], load_many), dict[int, Item | None])

    @policy.cached()
    async def find(id_: int) -> Kept[Item]:
        return keep(Item())

    @policy.cached()
    async def search(name: str) -> int | str:
        return name

    assert_type(await find(1), Item)
    assert_type(await find.refresh(1), Item)
    assert_type(await search("x"), int | str)

    async def wrong() -> Kept[str]:
        return keep("")

    await policy.get_or_load(1, wrong)  # type: ignore[arg-type]  # not an Item
