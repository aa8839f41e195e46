"""Whether a value comes back as it went: equal, and of the same types all the way down.

Some values do not, whatever the serializer: a secret that dumps as asterisks, a field that is
excluded, an instance of a subclass, a union whose members look alike. A cache that kept them would
answer a hit with something else than the miss before it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import count, repeat
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from app.core.serializers.protocol import Codec

# Types whose `==` says everything, once the types are the same.
_PLAIN = frozenset({bool, bytes, date, float, int, str, timedelta, type(None), UUID})


def unchanged(codec: Codec, value: Any, payload: bytes, *, key: bytes) -> bytes:
    """`payload`, if the codec turns it back into `value`.

    Raises:
        ValueError: it does not; the message says where they differ, and tells no values.
    """
    restored = codec.loads(payload, key=key)
    try:
        found = difference(value, restored)
    except Exception as error:  # an `__eq__` of theirs, or a value that contains itself
        raise ValueError(f"the value cannot be compared: {type(error).__name__}") from error
    if found is not None:
        raise ValueError(f"{type(value).__name__}{found}")
    return payload


def difference(value: Any, restored: Any) -> str | None:
    """Where two values differ, and in what; None if they do not.

    A zone counts as its offset, a whole number may become the float that was declared, and which
    fields of a model were set does not count.
    """
    if value is restored:
        return None
    kind = type(value)
    if kind is int and type(restored) is float and value == restored:
        return None
    if kind is not type(restored):
        return f" would come back as {type(restored).__name__}, not as {kind.__name__}"
    if isinstance(value, Mapping):
        # Not by their order: a TypedDict comes back in that of its definition.
        if _typed(value) != _typed(restored):
            return " would come back with other keys"
        return _first(repeat("[...]"), list(value.values()), [restored[key] for key in value])
    if isinstance(value, list | tuple | deque):
        if len(value) != len(restored):
            return " would come back with another length"
        return _first((f"[{i}]" for i in count()), list(value), list(restored))
    if (ours := _attributes(value)) is not None:
        theirs = _attributes(restored) or {}
        if ours.keys() != theirs.keys():
            return " would come back with other attributes"
        names = (f".{name}" for name in ours)
        return _first(names, list(ours.values()), [theirs[name] for name in ours])
    return None if _is_equal(value, restored) else " would come back with another value"


def _first(names: Iterator[str], ours: list[Any], theirs: list[Any]) -> str | None:
    """The first difference between the parts of two values."""
    types = list(map(type, ours))
    if _PLAIN.issuperset(types) and types == list(map(type, theirs)) and ours == theirs:
        return None
    for name, one, other in zip(names, ours, theirs, strict=False):
        if (found := difference(one, other)) is not None:
            return name + found
    return None


def _attributes(value: Any) -> Mapping[str, Any] | None:
    """The parts of an object by their names; None if it is a value in itself."""
    if isinstance(value, Enum):
        return None
    if isinstance(value, BaseModel):
        fields_, kept = type(value).__pydantic_fields__, value.__dict__
        if kept.keys() != fields_.keys():  # a cached property was computed
            kept = {name: part for name, part in kept.items() if name in fields_}
        return kept | (value.__pydantic_extra__ or {}) | (value.__pydantic_private__ or {})
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    equals: Any = type(value).__eq__
    if equals is object.__eq__ and hasattr(value, "__dict__"):
        return dict(vars(value))
    return None


def _is_equal(value: Any, restored: Any) -> bool:
    match value:
        case float():
            return bool(value == restored or (value != value and restored != restored))
        case Decimal():
            return str(value) == str(restored)  # 1.5 is not 1.50
        case datetime() | time():
            return _moment(value) == _moment(restored)
        case set() | frozenset():
            return value == restored and _typed(value) == _typed(restored)
    return bool(value == restored)


def _moment(value: datetime | time) -> tuple[str, int]:
    # By its text: a time that occurs twice in one zone is equal to none in another.
    return value.isoformat(), 0 if value.tzinfo else value.fold


def _typed(values: Iterable[Any]) -> set[tuple[type, Any]]:
    """To tell 1 from True."""
    return {(type(value), value) for value in values}
