"""Python's types that MessagePack does not have, as its extension types.

A number is never given to another type: what was written with it may still be in a cache.
"""

from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from ormsgpack import OPT_NON_STR_KEYS, Ext, packb, unpackb
from pydantic_core import to_jsonable_python

_INTEGERS = range(-(2**63), 2**64)
_MICROSECOND = timedelta(microseconds=1)


def tagged(value: Any) -> Any:
    """The value, and all in it, made of what ormsgpack writes as it is.

    Raises:
        PydanticSerializationError: there is a type that nobody knows how to write.
    """
    kind = type(value)
    if kind is int:
        return value if value in _INTEGERS else Ext(_INT, str(value).encode())
    if kind in (str, bytes, bool, float, type(None)):
        return value
    if kind in _TAGS:
        tag, write = _TAGS[kind]
        return Ext(tag, write(value))
    match value:
        case Enum():  # the type of the field knows which one
            return tagged(value.value)
        case Mapping() if all(type(key) is str for key in value):
            return {key: tagged(part) for key, part in value.items()}
        case Mapping():
            return Ext(_MAPPING, _pack([list(pair) for pair in value.items()]))
        case tuple():
            return Ext(_TUPLE, _pack(list(value)))
        case list():
            return [tagged(part) for part in value]
    return to_jsonable_python(value)


def restore(tag: int, data: bytes) -> Any:
    """What `tagged` was given.

    Raises:
        Exception: it was given nothing that these bytes can come from.
    """
    return _RESTORE[tag](data)


def _pack(values: list[Any]) -> bytes:
    return packb(tagged(values), option=OPT_NON_STR_KEYS)


def _unpack(data: bytes) -> Any:
    return unpackb(data, ext_hook=restore, option=OPT_NON_STR_KEYS)


def _text(convert: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: convert(data.decode())


_INT, _MAPPING, _TUPLE = 1, 2, 3
_TAGS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    set: (4, lambda value: _pack(list(value))),
    frozenset: (5, lambda value: _pack(list(value))),
    datetime: (6, lambda value: value.isoformat().encode()),
    date: (7, lambda value: value.isoformat().encode()),
    time: (8, lambda value: value.isoformat().encode()),
    timedelta: (9, lambda value: str(value // _MICROSECOND).encode()),
    Decimal: (10, lambda value: str(value).encode()),
    UUID: (11, lambda value: value.bytes),
}
_RESTORE: dict[int, Callable[[bytes], Any]] = {
    _INT: int,
    _MAPPING: lambda data: dict(_unpack(data)),
    _TUPLE: lambda data: tuple(_unpack(data)),
    4: lambda data: set(_unpack(data)),
    5: lambda data: frozenset(_unpack(data)),
    6: _text(datetime.fromisoformat),
    7: _text(date.fromisoformat),
    8: _text(time.fromisoformat),
    9: lambda data: int(data) * _MICROSECOND,
    10: _text(Decimal),
    11: lambda data: UUID(bytes=data),
}
