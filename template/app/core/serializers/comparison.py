"""Whether a value survives the round trip: equal, and of the same types at every level.

Some values do not, with any serializer: a secret that is dumped as asterisks, a field that is
excluded, an instance of a subclass, a union whose members look alike. If a cache stored them, a hit
would return something else than the miss before it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import count, repeat
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from app.core.serializers.protocol import Codec

Comparison = Callable[[Any, Any], str | None]

# Types whose `==` says everything, once the types are the same.
_PLAIN = frozenset({bool, bytes, date, float, int, str, timedelta, type(None), UUID})


def verify_round_trip(codec: Codec, value: Any, payload: bytes, *, key: bytes) -> bytes:
    """Return `payload` if the codec turns it back into `value`.

    Raises:
        ValueError: it does not; the message says where they differ, without the values.
    """
    restored = codec.loads(payload, key=key)
    try:
        found = difference(value, restored)
    except Exception as error:  # raised by an `__eq__`, or a value that contains itself
        raise ValueError(f"the value cannot be compared: {type(error).__name__}") from error
    if found is not None:
        raise ValueError(f"{type(value).__name__}{found}")
    return payload


def difference(value: Any, restored: Any) -> str | None:
    """Return where and how two values differ; None if they do not.

    Time zones are compared by their offsets, an int may become the float that was declared, a UUID
    of a database's driver a plain one, and it does not matter which fields of a model were set.
    """
    if value is restored:
        return None
    kind = type(value)
    if kind is type(restored):
        return _comparison(kind)(value, restored)  # type: ignore[arg-type]  # it is hashable
    if kind is int and type(restored) is float and value == restored:
        return None
    if plain_type(value) is type(restored):
        return _values(value, restored)
    return f" would come back as {type(restored).__name__}, not as {kind.__name__}"


@lru_cache(maxsize=1024)
def _comparison(kind: type) -> Comparison:
    """Return how to compare two values of one type, which takes longer to find out than to do."""
    if issubclass(kind, Enum):
        return _values
    if issubclass(kind, datetime | time):
        return _moments
    if issubclass(kind, Decimal):
        return _decimals
    if issubclass(kind, float):
        return _floats
    if issubclass(kind, Mapping):
        return _mappings
    if issubclass(kind, list | tuple | deque):
        return _sequences
    if issubclass(kind, set | frozenset):
        return _sets
    if issubclass(kind, BaseModel):
        return _models
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        return lambda value, restored: _attributes(
            {name: getattr(value, name) for name in names},
            {name: getattr(restored, name) for name in names},
        )
    equals: Any = kind.__eq__
    if equals is object.__eq__ and hasattr(kind, "__dict__"):
        return lambda value, restored: _attributes(vars(value), vars(restored))
    return _values


def _values(value: Any, restored: Any) -> str | None:
    return None if value == restored else " would come back with another value"


def _moments(value: Any, restored: Any) -> str | None:
    # As texts: a time that occurs twice in its zone equals no time of another zone.
    fold = value.tzinfo is None and value.fold != restored.fold
    return _values(value.isoformat(), restored.isoformat() if not fold else "")


def _decimals(value: Any, restored: Any) -> str | None:
    return _values(str(value), str(restored))  # 1.5 is not 1.50


def _floats(value: Any, restored: Any) -> str | None:
    return None if value != value and restored != restored else _values(value, restored)


def _mappings(value: Any, restored: Any) -> str | None:
    # In any order: a TypedDict comes back in the order of its definition.
    if _typed(value) != _typed(restored):
        return " would come back with other keys"
    return _parts(repeat("[...]"), list(value.values()), [restored[key] for key in value])


def _sequences(value: Any, restored: Any) -> str | None:
    if len(value) != len(restored):
        return " would come back with another length"
    return _parts((f"[{i}]" for i in count()), list(value), list(restored))


def _sets(value: Any, restored: Any) -> str | None:
    return _values(_typed(value), _typed(restored))


def _models(value: BaseModel, restored: BaseModel) -> str | None:
    return _attributes(_state(value), _state(restored))


def _state(model: BaseModel) -> dict[str, Any]:
    declared, kept = type(model).__pydantic_fields__, model.__dict__
    if kept.keys() != declared.keys():  # a cached property was computed
        kept = {name: part for name, part in kept.items() if name in declared}
    if model.__pydantic_extra__ or model.__pydantic_private__:
        kept = kept | (model.__pydantic_extra__ or {}) | (model.__pydantic_private__ or {})
    return kept


def _attributes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    if ours.keys() != theirs.keys():
        return " would come back with other attributes"
    names = (f".{name}" for name in ours)
    return _parts(names, list(ours.values()), [theirs[name] for name in ours])


def _parts(names: Iterator[str], ours: list[Any], theirs: list[Any]) -> str | None:
    """Return the first difference between the parts of two values."""
    types = list(map(type, ours))
    if types == list(map(type, theirs)) and _PLAIN.issuperset(types) and ours == theirs:
        return None
    for name, one, other in zip(names, ours, theirs, strict=False):
        if (found := difference(one, other)) is not None:
            return name + found
    return None


def _typed(values: Iterable[Any]) -> set[tuple[type, Any]]:
    """Make 1 and True different."""
    return {(plain_type(value), value) for value in values}


def plain_type(value: Any) -> type:
    """Return the type of a value; UUID for a subclass that has no room for more than a UUID.

    A database's driver may have such a class of its own.
    """
    kind = type(value)
    if kind is not UUID and issubclass(kind, UUID) and kind.__dictoffset__ == 0:
        between = kind.__mro__[: kind.__mro__.index(UUID)]
        if not any(vars(each).get("__slots__") for each in between):
            return UUID
    return kind
