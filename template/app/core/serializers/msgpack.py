"""MessagePack by ormsgpack: safe with bytes from anywhere, compact, and binary stays binary.

A value that MessagePack has no type for is first written as in JSON: pydantic turns the text back
into a date or a Decimal, and most values are written in one go. A value that would come back
different (a union of dates and texts, the content of Any, a key that is no text) is written again,
with tags that say what was what, and finally as pydantic's JSON. All are read in the same way.
"""

from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

from ormsgpack import OPT_NON_STR_KEYS, OPT_SERIALIZE_PYDANTIC, Ext, packb, unpackb
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from app.core.serializers.comparison import verify_round_trip
from app.core.serializers.protocol import DecodeError
from app.core.serializers.type_info import adapter_of, json_shape

_INTEGERS = range(-(2**63), 2**64)
_MICROSECOND = timedelta(microseconds=1)


class MsgpackCodec:
    """Stores fields under their names, so that aliases for clients do not matter."""

    shareable = False

    def __init__(self, adapter: TypeAdapter[Any], fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self._adapter = adapter

    def dumps(self, value: Any, *, key: bytes) -> bytes:
        refusals: list[str] = []
        for write in (self._plainly, self._with_tags, self._as_json):
            try:
                return verify_round_trip(self, value, write(value), key=key)
            except Exception as error:  # also what an object raises when its parts are read
                refusals.append(str(error))
        raise ValueError("; ".join(dict.fromkeys(refusals)))

    def loads(self, payload: bytes, *, key: bytes) -> Any:
        try:
            parts = unpackb(payload, ext_hook=restore, option=OPT_NON_STR_KEYS)
            return self._adapter.validate_python(parts, by_name=True, by_alias=False)
        except ValidationError as error:
            raise DecodeError(f"{error.error_count()} fields do not fit the type") from error
        except Exception as error:  # no MessagePack, or raised by a validator of the type
            raise DecodeError(f"it cannot be read: {type(error).__name__}") from error

    def _plainly(self, value: Any) -> bytes:
        return packb(value, to_jsonable_python, OPT_SERIALIZE_PYDANTIC | OPT_NON_STR_KEYS)

    def _with_tags(self, value: Any) -> bytes:
        return packb(tagged(self._parts(value, "python")), option=OPT_NON_STR_KEYS)

    def _as_json(self, value: Any) -> bytes:
        return packb(self._parts(value, "json"), option=OPT_NON_STR_KEYS)

    def _parts(self, value: Any, mode: Literal["python", "json"]) -> Any:
        return self._adapter.dump_python(
            value, mode=mode, round_trip=True, by_alias=False, warnings="error"
        )


class MsgpackSerializer:
    """The `msgpack` answer."""

    format = 2

    def codec(self, type_: Any) -> MsgpackCodec:
        adapter = adapter_of(type_)
        return MsgpackCodec(adapter, json_shape(type_, adapter))


def tagged(value: Any) -> Any:
    """Make the value, and all in it, of types that ormsgpack writes as they are.

    Raises:
        PydanticSerializationError: a type in it cannot be written.
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
    """Return the value that `tagged` was given.

    Raises:
        Exception: these bytes come from no such value.
    """
    return _RESTORE[tag](data)


def _pack(values: list[Any]) -> bytes:
    return packb(tagged(values), option=OPT_NON_STR_KEYS)


def _unpack(data: bytes) -> Any:
    return unpackb(data, ext_hook=restore, option=OPT_NON_STR_KEYS)


def _text(convert: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: convert(data.decode())


# Extension types for the types of Python that MessagePack does not have. A number is never given to
# another type: what was written with it may still be in a cache.
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
