"""Different arguments never share a key, and what has no clear text is refused."""

import gc
import socket
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PrivateAttr, create_model

from app.core.cache import Cache, UnkeyableType
from app.core.cache.keys import Keyspace, canonical
from tests.core.cache.harness import Source

SPACE = Keyspace("svc")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    # Characters that the texts themselves are made of, to provoke concatenation tricks.
    st.text(alphabet="si1:(),=b0np{}#\ud800é", max_size=6),
    st.binary(max_size=3),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.uuids(),
    st.datetimes(),
    st.dates(),
    st.times(),
    st.timedeltas(),
)


def nested(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    hashable = st.text(alphabet="s1:=,()", max_size=3) | st.integers()
    return st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(hashable, children, max_size=3),
        st.frozensets(hashable, max_size=3),
    )


values = st.recursive(scalars, nested, max_leaves=6)


def twin(value: Any) -> Any:
    """Something that compares equal exactly to values with the same text."""
    match value:
        case list() | tuple():
            return (type(value), tuple(map(twin, value)))
        case dict():
            return (dict, frozenset((twin(key), twin(item)) for key, item in value.items()))
        case frozenset():
            return (frozenset, frozenset(map(twin, value)))
        case Decimal() | float():
            return (type(value), repr(value))  # 1.0 and 1.00, or 0.0 and -0.0, may differ
    return (type(value), value)


@given(values, values)
def test_texts_are_equal_exactly_when_values_are(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (twin(one) == twin(other))


@given(st.lists(values, min_size=1, max_size=3), st.lists(values, min_size=1, max_size=3))
def test_addresses_are_too(one: list[Any], other: list[Any]) -> None:
    first, second = (SPACE.entry_keys("p", canonical(value), ()) for value in (one, other))
    same = twin(one) == twin(other)
    assert (first.value == second.value) == same
    assert (first.fingerprint == second.fingerprint) == same
    assert first.lease != second.value
    first.value.encode()  # always fit for the wire


class Colour(Enum):
    RED = 1


class Size(IntEnum):
    SMALL = 1


class Name(StrEnum):
    ONE = "1"


class Item(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int = 1


class Other(BaseModel):
    id: int = 1


@dataclass
class Point:
    x: int = 1


def point_of(module: str, name: str = "Point") -> Any:
    made = make_dataclass(name, [("x", int, 1)])
    made.__module__ = module
    return made()


def classes(module: str) -> list[Any]:
    """Values of classes that exist in several modules under one name."""
    make_enum: Any = Enum
    colour = make_enum("Colour", {"RED": 1}, module=module, qualname="Colour")
    user = create_model("User", __module__=module, id=(int, 1))
    return [colour(1), user(), point_of(module)]


BERLIN, PARIS = ZoneInfo("Europe/Berlin"), ZoneInfo("Europe/Paris")
WINTER = datetime(2020, 1, 1)

ALIKE: list[Any] = [
    *classes("app.accounts"),
    *classes("app.admins"),
    *[WINTER.replace(tzinfo=zone) for zone in (BERLIN, PARIS, timezone(timedelta(hours=1)), UTC)],
    *[time(tzinfo=zone) for zone in (BERLIN, PARIS, UTC)],
    *[WINTER.replace(fold=1), WINTER.replace(fold=1, tzinfo=BERLIN)],
    *[OrderedDict(x=1, y=2), OrderedDict(y=2, x=1), {"x": 1, "y": 2}],
    *[1, "1", True, 1.0, b"1", Decimal(1), "i1", Colour.RED, Size.SMALL, Name.ONE],
    *[0, "0", False, 0.0, b"", "", None, "None", "n", (), [], {}, frozenset()],
    *["a:b", ("a", "b"), ["a", "b"], ("a:b",), ("a,b",), ("a", "", "b"), (("a",), "b"), "a,b"],
    *[("s1:a", "b"), ("s1:a,s1:b",), {"a": "b"}, {"a=s1:b": None}, {"a": None, "b": None}],
    *[("i", "1"), ("i1",), ("i1", ""), ((), ()), ((),), [()], ([],)],
    *[date(2020, 1, 1), datetime(2020, 1, 1), "2020-01-01", time(0), timedelta(0), timedelta(1)],
    *[UUID(int=1), str(UUID(int=1)), 2**64, -1, "-1", float("inf"), "inf", 1e308],
    *[Item(id=1), Item(id=2), Item(id=1, note="x"), Item(id=1, note="y")],  # type: ignore[call-arg]  # extras
    *[Other(), Point(), {"x": 1}],
    *["é", "é", "\ud800", "\\ud800", "?", "\ud801", "x" * 200, "x" * 201, "}", "{", "\r\n"],
]  # fmt: skip


def test_what_looks_alike_differs() -> None:
    texts: dict[str, Any] = {}
    addresses: dict[str, Any] = {}
    for value in ALIKE:
        text = canonical(value)
        assert texts.setdefault(text, value) is value
        assert addresses.setdefault(SPACE.entry_keys("p", text, ()).value, value) is value


def test_order_matters_in_sequences_only() -> None:
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical({1, 2, 3}) == canonical(frozenset([3, 2, 1]))
    assert canonical([1, 2]) != canonical([2, 1])


def test_a_long_key_is_short_in_redis_and_still_tells_what_it_is() -> None:
    one = SPACE.entry_keys("p", canonical("x" * 10_000 + "1"), ())
    other = SPACE.entry_keys("p", canonical("x" * 10_000 + "2"), ())
    assert one.value != other.value
    assert len(one.value) < 200
    assert "s10001:xxxx" in one.value


def test_policies_tags_and_services_have_names_of_their_own() -> None:
    names = [
        Keyspace(service, epoch).policy_version(policy)
        for service in ("a", "b")
        for epoch in (1, 2)
        for policy in ("tag", "item", "item-version")
    ]
    names += [SPACE.tag_version(tag) for tag in ("version", "item:version", "{i1}", "a:b", "a")]
    names += [SPACE.policy_version("tag"), SPACE.entry_keys("tag", canonical(1), ()).value]
    names += [SPACE.channel, SPACE.probe]
    assert len(set(names)) == len(names)


async def test_a_function_and_a_plain_key_do_not_meet(cache: Cache) -> None:
    policy = cache.policy("item", ttl=60)

    @policy.cached()
    async def d1(n: int) -> str:
        return f"function {n}"

    async def load() -> str:
        return "plain"

    assert await d1(5) == "function 5"
    assert await policy.get_or_load({None: 5}, load) == "plain"


class Client:
    pass


class Text(str):
    __slots__ = ()


class Row(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    "value", [Client(), Client, object(), Text("x"), iter([]), len, (1, [Client()]), {"": Client()}]
)  # fmt: skip
async def test_what_has_no_text_is_refused_at_the_first_call(cache: Cache, value: Any) -> None:
    policy, source = cache.policy("item", int, ttl=60), Source(1)
    with pytest.raises(UnkeyableType, match="cannot be part of a cache key"):
        await policy.get_or_load(value, source.load)
    with pytest.raises(UnkeyableType):
        await policy.invalidate(value)
    assert source.loads == 0


class Slotted:
    __slots__ = ("hidden",)


@dataclass
class WithSlot(Slotted):
    x: int = 1


@dataclass(init=False)
class Code(str):
    x: int = 1


class Pair(NamedTuple):
    x: int = 1


class Private(BaseModel):
    id: int = 1
    _tenant: str = PrivateAttr("acme")


class Later(BaseModel):
    id: int = 1


class Zone(tzinfo):
    """What it says of a moment is for nobody to know."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, when: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, when: datetime | None) -> str:
        return "here"


class Options(dict[str, int]):
    """Has attributes beside its items."""


def with_attribute(value: Any) -> Any:
    object.__setattr__(value, "hidden", "acme")
    return value


@pytest.mark.parametrize(
    "value",
    [
        Private(),
        with_attribute(Later()),
        with_attribute(Point()),
        with_attribute(WithSlot()),
        with_attribute(Options()),
        Later.model_construct(),
        Code("acme"),
        Pair(),
        datetime(2020, 1, 1, tzinfo=Zone()),
        time(tzinfo=Zone()),
        [{"nested": Private()}],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_text_would_not_show_is_refused(value: Any) -> None:
    if value.__class__ is Later and "hidden" not in vars(value):
        del vars(value)["id"]
    with pytest.raises(UnkeyableType, match="cannot be part of a cache key"):
        canonical(value)


def test_what_is_computed_from_the_fields_adds_nothing() -> None:
    class Computed(BaseModel):
        id: int = 1

        @cached_property
        def twice(self) -> int:
            return 2 * self.id

    before = canonical(value := Computed())
    assert value.twice == 2
    assert canonical(value) == before


def test_two_classes_of_one_name_are_refused() -> None:
    """Their values have the same text. Where the first one is gone, the name is free again."""
    first, second = (point_of("app.twice", "Twice") for _ in "ab")
    canonical(first)
    with pytest.raises(UnkeyableType, match=r"two classes of this name"):
        canonical(second)
    del first
    gc.collect()
    assert canonical(second)


def test_a_long_tag_is_short_in_redis() -> None:
    tags = ["x" * 10_000, "x" * 10_001, "\ud800", "\\ud800"]
    names = [SPACE.tag_version(tag) for tag in tags]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 200


@pytest.mark.parametrize("type_", [Client, socket.socket, Client | None, type[Client]])
async def test_a_parameter_that_has_no_text_is_refused_when_decorating(
    cache: Cache, type_: Any
) -> None:
    async def function(parameter: Any) -> int:
        return 1

    function.__annotations__["parameter"] = type_
    with pytest.raises(TypeError, match=r"'parameter' of function .*name it in ignore="):
        cache.policy("item", ttl=60).cached()(function)


class SlottedUUID(UUID):
    __slots__ = ("origin",)


class OpenUUID(UUID):
    """Has room for more."""


def test_the_ids_of_a_driver_are_ids() -> None:
    """asyncpg has a class of its own for what it reads, which the example then caches by."""
    pgproto = pytest.importorskip("asyncpg.pgproto.pgproto")
    text = "407d7edd-5f77-42c0-a661-db83fee076a9"
    assert canonical(pgproto.UUID(text)) == canonical(UUID(text))
    for hiding in (SlottedUUID(text), OpenUUID(text)):
        with pytest.raises(UnkeyableType):
            canonical(hiding)
