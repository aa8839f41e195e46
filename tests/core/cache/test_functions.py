"""`@policy.cached`: a function like before, with a key, and checked when it is decorated."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.core.cache import Cache, CachePolicy, UnkeyableType

ROOT = Path(__file__).parents[3]


class Database:
    """Something that cannot be part of a key."""


@pytest.fixture
def policy(cache: Cache) -> CachePolicy[Any]:
    return cache.policy("item", ttl=60)


async def test_equal_arguments_share_a_result_however_they_are_passed(
    policy: CachePolicy[Any],
) -> None:
    calls = []

    @policy.cached(ignore=["database"])
    async def find(
        database: Database, id_: int, /, name: str = "x", *rest: int, **more: str
    ) -> str:
        calls.append(id_)
        return f"{id_} {name} {rest} {more}"

    assert await find(Database(), 1) == "1 x () {}"
    assert await find(Database(), 1, name="x") == "1 x () {}"
    assert await find(Database(), 1, "x") == "1 x () {}"
    assert calls == [1]
    assert await find(Database(), 1, "x", 5, a="b", c="d") == "1 x (5,) {'a': 'b', 'c': 'd'}"
    assert await find(Database(), 1, "x", 5, c="d", a="b") == "1 x (5,) {'a': 'b', 'c': 'd'}"
    assert await find(Database(), 1, "y") == "1 y () {}"
    assert calls == [1, 1, 1]


async def test_key_invalidate_and_refresh_take_the_same_arguments(
    policy: CachePolicy[Any],
) -> None:
    results = ["old", "new", "newest"]

    @policy.cached()
    async def find(id_: int, name: str = "x") -> str:
        """Finds."""
        return results.pop(0)

    assert (getattr(find, "__name__", None), find.__doc__) == ("find", "Finds.")
    assert find.key(1) == find.key(id_=1, name="x") != find.key(1, "y")
    assert await find(1) == "old"
    await find.invalidate(2)
    assert await find(1) == "old"
    await find.invalidate(1)
    assert await find(1) == "new"
    assert await find.refresh(1) == "newest"
    assert await find(1) == "newest"


async def test_tags_are_fixed_or_computed_from_the_arguments(
    cache: Cache, policy: CachePolicy[Any]
) -> None:
    calls = []

    @policy.cached(tags=["all"])
    async def one(id_: int) -> int:
        calls.append("one")
        return id_

    @policy.cached(tags=lambda id_: {f"user:{id_}", "all"}, ignore=["database"])
    async def two(database: Database, id_: int) -> int:
        calls.append("two")
        return id_

    async def both() -> list[str]:
        calls.clear()
        await one(1)
        await two(Database(), 1)
        return list(calls)

    assert await both() == ["one", "two"]
    assert await both() == []
    await cache.invalidate_tags("user:2")
    assert await both() == []
    await cache.invalidate_tags("user:1")
    assert await both() == ["two"]
    await cache.invalidate_tags("all")
    assert await both() == ["one", "two"]


async def returns_nothing_annotated(id_: int):  # type: ignore[no-untyped-def]  # that is the point
    return id_


async def annotated(id_: int, database: Database) -> int:
    return id_


async def fine(id_: int) -> int:
    return id_


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (returns_nothing_annotated, {}, "needs a return annotation"),
        (annotated, {}, "'database' of annotated is a Database"),
        (fine, {"ignore": ["database"]}, "no parameter database to ignore"),
        (annotated, {"ignore": ["database"], "tags": lambda database: []}, "depend on database"),
        (fine, {"tags": lambda name: []}, "depend on name"),
        (fine, {"tags": "all"}, "tags"),
    ],
    ids=["return", "unkeyable", "ignore", "tag of an ignored", "tag of an unknown", "one string"],
)
def test_mistakes_are_found_when_decorating(
    policy: CachePolicy[Any], function: Any, options: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        policy.cached(**options)(function)


async def test_computed_tags_that_are_one_string_are_refused(policy: CachePolicy[Any]) -> None:
    @policy.cached(tags=lambda id_: f"user:{id_}")
    async def find(id_: int) -> int:
        return id_

    with pytest.raises(TypeError, match="tags"):
        await find(1)


async def test_two_functions_of_one_name_do_not_share_a_policy(policy: CachePolicy[Any]) -> None:
    policy.cached()(fine)
    with pytest.raises(ValueError, match="already caches a function 'fine'"):
        policy.cached()(fine)


async def test_usual_annotations_are_accepted(policy: CachePolicy[Any]) -> None:
    @policy.cached()
    async def find(
        ids: Sequence[int],
        filters: Mapping[str, str | None],
        page: Annotated[int, "a number"] = 1,
        *,
        unknown: Any = None,
    ) -> int:
        return len(ids)

    assert await find([1, 2], {"a": None}) == 2
    with pytest.raises(UnkeyableType):
        await find([1], {}, unknown=Database())


def test_types_are_kept() -> None:
    program = Path(__file__).with_name("typed_example.py")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


async def test_loads_do_not_see_the_context_of_the_caller_who_started_them(
    policy: CachePolicy[Any],
) -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")

    @policy.cached()
    async def whoami() -> str:
        await asyncio.sleep(0)
        return user.get()

    user.set("alice")
    assert await whoami() == "nobody"


class Repository:
    def __init__(self, session: AsyncSession | None = None) -> None:
        self._session = session

    async def load(self, id_: int = 1) -> int:
        return id_


def closure(session: AsyncSession) -> Callable[[], Awaitable[int]]:
    async def load() -> int:
        return int(session is not None)

    return load


async def takes_anything(session, id_: int = 1) -> int:  # type: ignore[no-untyped-def]  # that is the point
    return id_


CAPTURES: dict[str, Callable[[AsyncSession], Any]] = {
    "closure": closure,
    "method": lambda session: Repository(session).load,
    "partial": lambda session: partial(takes_anything, session),
    "by name": lambda session: partial(takes_anything, session=session),
}


@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
async def test_a_loader_that_has_captured_a_session_is_refused(
    cache: Cache, capture: Callable[[AsyncSession], Any]
) -> None:
    policy = cache.policy("item", int, ttl=60, stale_while_revalidate=60)
    message = "loader of 'item' has captured a AsyncSession"
    with pytest.raises(TypeError, match=message):
        await policy.get_or_load(1, capture(AsyncSession()))
    with pytest.raises(TypeError, match=message):
        await policy.get_or_load_many([1], capture(AsyncSession()))


async def test_so_is_a_session_in_an_ignored_argument(policy: CachePolicy[Any]) -> None:
    load = policy.cached(ignore=["session"])(takes_anything)
    with pytest.raises(TypeError, match="has captured a AsyncSession"):
        await load(AsyncSession(), 1)


async def test_what_opens_its_own_session_may_be_captured(cache: Cache) -> None:
    policy, repository = cache.policy("item", int, ttl=60), Repository()
    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker()

    async def load() -> int:
        return await repository.load(len([sessions]))

    assert await policy.get_or_load(1, load) == 1
