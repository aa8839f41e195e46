"""Serializers beside JSON: `python -m benchmarks.serializers` (under a minute).

Each round measures all of them, one right after the other, so that what else the machine does
concerns all alike; the figures are medians of the rounds' ratios. Below 1 is faster, or smaller,
than JSON. To encode includes what every store does: to read the bytes back and to compare. The last
column shows what that costs, beside pydantic's `dump_json` alone.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parents[1] / "template"))

from pydantic import BaseModel, ConfigDict, TypeAdapter

from app.core.serializers import Codec, Serializer
from app.core.serializers.json import JsonSerializer
from app.core.serializers.msgpack import MsgpackSerializer
from app.core.serializers.pickle import PickleSerializer

ROUNDS = 15
SECONDS = 0.02
"""How long one measurement of JSON takes."""
KEY = b"benchmark:1:item:{i1}"
SERIALIZERS: dict[str, Serializer] = {
    "json": JsonSerializer(),
    "msgpack": MsgpackSerializer(),
    "pickle": PickleSerializer(["a secret of thirty-two characters"]),
}


class Item(BaseModel):
    id: UUID
    name: str
    price: Decimal
    tags: list[str]
    stock: dict[str, int]
    created: datetime
    description: str


class File(BaseModel):
    """Binary, of which JSON has to be told."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    name: str
    content: bytes


def item(number: int, size: int) -> Item:
    return Item(
        id=UUID(int=number),
        name="lamp",
        price=Decimal("12.50"),
        tags=["new", "light", "sale"],
        stock={"berlin": 3, "paris": 12},
        created=datetime(2024, 1, 1, 12, number % 60, tzinfo=UTC),
        description="x" * size,
    )


VALUES: dict[str, tuple[Any, Any]] = {
    "an item of 1 kB": (Item, item(1, 780)),
    "a list of 100 items": (list[Item], [item(number, 60) for number in range(100)]),
    "an item of 100 kB": (Item, item(1, 100_000)),
    "100 kB of binary": (File, File(name="a", content=bytes(range(256)) * 400)),
}


def seconds(call: Callable[[], object], times: int) -> float:
    started = perf_counter()
    for _ in range(times):
        call()
    return perf_counter() - started


def measure(codec: Codec, payload: bytes, value: Any, times: int) -> tuple[float, float]:
    """Seconds to encode and to decode."""
    return (
        seconds(lambda: codec.dumps(value, key=KEY), times),
        seconds(lambda: codec.loads(payload, key=KEY), times),
    )


def compare(title: str, type_: Any, value: Any) -> None:
    codecs = {name: serializer.codec(type_) for name, serializer in SERIALIZERS.items()}
    payloads = {name: codec.dumps(value, key=KEY) for name, codec in codecs.items()}
    adapter = TypeAdapter(type_)
    times = max(1, int(SECONDS / measure(codecs["json"], payloads["json"], value, 1)[1]))
    ratios: dict[str, list[list[float]]] = {name: [] for name in codecs}
    for _ in range(ROUNDS):
        unchecked = seconds(lambda: adapter.dump_json(value), times)
        took = {
            name: measure(codec, payloads[name], value, times) for name, codec in codecs.items()
        }
        json_encode, json_decode = took["json"]
        for name, (encode, decode) in took.items():
            ratios[name].append([encode / json_encode, decode / json_decode, encode / unchecked])
    for name, rounds in ratios.items():
        encode, decode, checked = (median(column) for column in zip(*rounds, strict=True))
        size = len(payloads[name]) / len(payloads["json"])
        print(f"{title:22}{name:10}{encode:8.2f}{decode:8.2f}{size:8.2f}{checked:15.1f}")
        title = ""


def main() -> None:
    print(f"medians of {ROUNDS} rounds, as ratios to json")
    print(f"{'':32}{'encode':>8}{'decode':>8}{'size':>8}{'/ dump_json':>15}")
    for title, (type_, value) in VALUES.items():
        compare(title, type_, value)


if __name__ == "__main__":
    main()
