"""Values that every serializer keeps, and those that some refuse to keep."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    SecretStr,
    field_serializer,
    field_validator,
)

from tests.core.serializers.models import (
    Aliased,
    Binary,
    Cat,
    Colour,
    Computed,
    Dog,
    Everything,
    Frozen,
    Kind,
    Movie,
    Names,
    Open,
    Page,
    Pair,
    Point,
    Rank,
    Slotted,
    Tree,
    Zone,
    everything,
)

TWICE = datetime(2024, 10, 27, 2, 30, tzinfo=Zone(), fold=1)
EAST = timezone(timedelta(hours=5, minutes=45))
CASES: dict[str, tuple[Any, Any]] = {
    "int": (int, 0),
    "negative": (int, -1),
    "big int": (int, 2**200),
    "int64": (int, -(2**63)),
    "uint64": (int, 2**64 - 1),
    "true": (bool, True),
    "false": (bool, False),
    "float": (float, 0.1),
    "float that is whole": (float, 2.0),
    "minus zero": (float, -0.0),
    "nan": (float, math.nan),
    "inf": (float, -math.inf),
    "nan or None": (float | None, math.nan),
    "floats": (list[float], [math.inf, math.nan, 1e-320, 1.7e308]),
    "str": (str, ""),
    "unicode": (str, '\x00é日本🎉\u2028\\"'),
    "long": (str, "long " * 10_000),
    "bytes": (bytes, b""),
    "binary": (bytes, bytes(range(256))),
    "1 MB": (bytes, bytes(10**6)),
    "bytes in a list": (list[bytes], [b"\xff", b"text"]),
    "1 MB of text": (str, "é" * 500_000),
    "None": (type(None), None),
    "Optional": (int | None, 0),
    "absent": (int | None, None),
    "literal": (Literal["a", 1, None], 1),
    "list": (list[int], []),
    "nested": (list[list[int]], [[1], []]),
    "datetime": (datetime, datetime(2020, 1, 1, 12, 30, 15, 123456)),
    "datetime in UTC": (datetime, datetime(2020, 1, 1, tzinfo=UTC)),
    "datetime with an offset": (datetime, datetime(2020, 1, 1, tzinfo=EAST)),
    "datetime in a zone": (datetime, TWICE),
    "first datetime": (datetime, datetime.min),
    "last datetime": (datetime, datetime.max),
    "date": (date, date(2020, 2, 29)),
    "time": (time, time(1, 2, 3, 4)),
    "time in UTC": (time, time(1, tzinfo=UTC)),
    "timedelta": (timedelta, timedelta(days=400, microseconds=7)),
    "negative timedelta": (timedelta, timedelta(seconds=-1)),
    "Decimal": (Decimal, Decimal("0.10")),
    "Decimal of many digits": (Decimal, Decimal("1" * 60)),
    "Decimal exponent": (Decimal, Decimal("1E+5")),
    "UUID": (UUID, UUID(int=1)),
    "Enum": (Colour, Colour.RED),
    "IntEnum": (Rank, Rank.HIGH),
    "StrEnum": (Kind, Kind.BOOK),
    "model": (Tree, Tree(name="a", children=[Tree(name="b")])),
    "everything": (Everything, everything()),
    "models": (list[Everything], [everything(), everything()]),
    "dict of models": (dict[UUID, Tree], {UUID(int=2): Tree(name="x")}),
    "union of models": (list[Tree | Point], [Tree(name="a"), Point(1)]),
    "discriminated": (Annotated[Cat | Dog, Field(discriminator="kind")], Cat(lives=3)),
    "int or str": (list[int | str], [1, "1", "a"]),
    "bool or int": (list[bool | int], [True, 1, 0, False]),
    "float or int": (list[float | int], [1, 1.5]),
    "generic": (Page[Tree], Page[Tree](items=[Tree(name="a")])),
    "generic of datetimes": (Page[datetime], Page[datetime](items=[datetime(2020, 1, 1)])),
    "root model": (Names, Names(["a", "b"])),
    "extra fields": (Open, Open.model_validate({"id": 1, "more": [1]})),
    "aliases": (Aliased, Aliased.model_validate({"itemName": "a", "in": 1})),
    "binary model": (Binary, Binary(raw=b"\xff\x00", ratio=math.nan)),
    "computed": (Computed, Computed(width=3)),
    "frozen": (set[Frozen], {Frozen(id=1), Frozen(id=2)}),
    "dict with int keys": (dict[int, str], {1: "a", -1: "b"}),
    "dict with bool keys": (dict[bool, int], {True: 1, False: 0}),
    "dict with UUID keys": (dict[UUID, int], {UUID(int=1): 1}),
    "dict with date keys": (dict[date, int], {date(2020, 1, 1): 1}),
    "dict with Decimal keys": (dict[Decimal, int], {Decimal("1.50"): 1}),
    "dict with Enum keys": (dict[Colour, int], {Colour.RED: 1}),
    "dict with float keys": (dict[float, int], {1.5: 1}),
    "dict": (dict[str, Any], {"b": 1, "a": [None, {"c": 1.5}]}),
    "tuple": (tuple[int, str], (1, "a")),
    "tuple of any length": (tuple[Decimal, ...], (Decimal("1.0"),)),
    "set": (set[int], {1, 2}),
    "frozenset": (frozenset[str], frozenset("ab")),
    "deque": (deque[int], deque([1, 2])),
    "set of datetimes": (set[datetime], {datetime(2020, 1, 1, tzinfo=UTC)}),
    "list as Sequence": (Sequence[int], [1, 2]),
    "dict as Mapping": (Mapping[str, int], {"a": 1}),
    "dataclass": (Point, Point(1, 2.5, ["a"])),
    "slots": (Slotted, Slotted(datetime(2020, 1, 1), 7)),
    "TypedDict": (Movie, {"year": 1985, "title": "Ran"}),
    "NamedTuple": (Pair, Pair(1, Decimal("1.0"))),
    "path": (PurePosixPath, PurePosixPath("/a/b")),
    "a list of many": (list[int], list(range(100_000))),
    "a list of 1 MB": (list[Tree], [Tree(name="x" * 1000)] * 1000),
}


class Wide(Tree):
    more: int = 0


class Hidden(BaseModel):
    name: str = Field(default="default", exclude=True)


class Private(BaseModel):
    _token: str = PrivateAttr("none")


class Rounded(BaseModel):
    price: float

    @field_serializer("price")
    def round(self, price: float) -> float:
        return round(price)


class Growing(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def grow(cls, name: str) -> str:
        return name + "!"


class Plain(BaseModel):
    """A model that JSON would need to be told about."""

    raw: bytes = b""
    ratio: float | None = None


def with_token() -> Private:
    value = Private()
    value._token = "secret"
    return value


# What JSON and MessagePack lose without saying so, and pickle keeps.
LOST: dict[str, tuple[Any, Any]] = {
    "a secret": (SecretStr, SecretStr("password")),
    "an instance of a subclass": (Tree, Wide(name="a", more=1)),
    "an instance of a subclass, inside": (list[Tree], [Wide(name="a", more=1)]),
    "a private attribute": (Private, with_token()),
    "a validator that changes what it gets again": (Growing, Growing(name="a")),
    "an Enum in Any": (Any, {"colour": Colour.RED}),
    "a model in Any": (Any, [Tree(name="a")]),
}
LOST_IN_JSON: dict[str, tuple[Any, Any]] = {
    "a field that is excluded": (Hidden, Hidden(name="a")),
    "binary in a model": (Plain, Plain(raw=b"\xff")),
    "nan in a model": (Plain, Plain(ratio=math.nan)),
    "a date in Any": (Any, {"day": date(2020, 1, 1)}),
    "a tuple in Any": (dict[str, Any], {"a": (1, 2)}),
    "a number in a key of Any": (Any, {1: "a"}),
    "a serializer that rounds": (Rounded, Rounded(price=1.5)),
    "a text that looks like a date": (date | str, "2020-01-01"),
    "dict with tuple keys": (dict[tuple[int, int], str], {(1, 2): "a"}),
    "a UUID or a text": (list[UUID | str], [UUID(int=1), str(UUID(int=1))]),
}
