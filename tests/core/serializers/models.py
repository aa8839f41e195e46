"""What people put in a cache: models and the like of every kind that pydantic knows."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import cached_property
from ipaddress import IPv4Address
from typing import Annotated, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    RootModel,
    computed_field,
)
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

T = TypeVar("T")


class Zone(tzinfo):
    """One whose clocks are set back: the time of day does not tell the offset."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1 if moment and moment.fold else 2)

    def dst(self, moment: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, moment: datetime | None) -> str:
        return "zone"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Rank(IntEnum):
    LOW = 1
    HIGH = 2


class Kind(StrEnum):
    BOOK = "book"


class Tree(BaseModel):
    name: str
    children: "list[Tree]" = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: T | None = None


class Names(RootModel[list[str]]):
    pass


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int


class Aliased(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    name: str = Field(alias="itemName")
    size: int = Field(validation_alias="in", serialization_alias="out")


class Binary(BaseModel):
    """What JSON needs to be told; see app/core/serializers/json.py."""

    model_config = ConfigDict(
        ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings"
    )
    raw: bytes
    ratio: float | None


class Computed(BaseModel):
    width: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.width**2

    @cached_property
    def slow(self) -> int:
        return self.width


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    id: int


@dataclass
class Point:
    x: int
    y: float = 0.0
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Slotted:
    at: datetime
    _hidden: int = 3


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Pair(NamedTuple):
    left: int
    right: Decimal


class Everything(BaseModel):
    id: UUID
    price: Decimal
    created: datetime
    day: date
    at: time
    took: timedelta
    colour: Colour
    rank: Rank
    kind: Kind
    raw: bytes
    note: str | None
    tree: Tree
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    by_id: dict[int, Point]
    by_day: dict[date, set[int]]
    pair: Pair
    point: Point
    movie: Movie
    address: IPv4Address
    link: HttpUrl


def everything() -> Everything:
    return Everything(
        id=UUID(int=5),
        price=Decimal("10.50"),
        created=datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
        day=date(2024, 2, 29),
        at=time(23, 59, 59, 1),
        took=timedelta(days=-1, microseconds=1),
        colour=Colour.BLUE,
        rank=Rank.HIGH,
        kind=Kind.BOOK,
        raw=b"plain bytes",
        note=None,
        tree=Tree(name="a", children=[Tree(name="b", children=[Tree(name="c")])]),
        pet=Dog(name="Rex"),
        by_id={1: Point(1, 2.5, ["x"]), -2: Point(0)},
        by_day={date(2024, 1, 1): {1, 2}, date.min: set()},
        pair=Pair(1, Decimal("0.10")),
        point=Point(3),
        movie={"title": "Ran"},
        address=IPv4Address("10.0.0.1"),
        link=HttpUrl("https://example.org/a?b=c"),
    )
