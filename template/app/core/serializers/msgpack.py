"""MessagePack by ormsgpack: safe with bytes from anywhere, compact, and binary stays binary.

What MessagePack has no type for is first written as JSON would: pydantic makes a date or a Decimal
of the text again, and most types are written in one go. A value that would not come back like that
(a union of dates and texts, the content of Any, a key that is no text) is written a second time,
with tags that say what was what, and at last as pydantic's JSON has it. All are read alike.
"""

from typing import Any, Literal

from ormsgpack import OPT_NON_STR_KEYS, OPT_SERIALIZE_PYDANTIC, packb, unpackb
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from app.core.serializers.comparison import unchanged
from app.core.serializers.described import adapter_of, json_shape
from app.core.serializers.msgpack_tags import restore, tagged
from app.core.serializers.protocol import DecodeError


class MsgpackCodec:
    """Keeps fields under their names, so that aliases for the outside do not matter here."""

    shareable = False

    def __init__(self, adapter: TypeAdapter[Any], fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self._adapter = adapter

    def dumps(self, value: Any, *, key: bytes) -> bytes:
        refusals: list[str] = []
        for write in (self._plainly, self._with_tags, self._as_json):
            try:
                return unchanged(self, value, write(value), key=key)
            except Exception as error:  # also what an object raises that is asked for its parts
                refusals.append(str(error))
        raise ValueError("; ".join(dict.fromkeys(refusals)))

    def loads(self, payload: bytes, *, key: bytes) -> Any:
        try:
            parts = unpackb(payload, ext_hook=restore, option=OPT_NON_STR_KEYS)
            return self._adapter.validate_python(parts, by_name=True, by_alias=False)
        except ValidationError as error:
            raise DecodeError(f"{error.error_count()} fields do not fit the type") from error
        except Exception as error:  # no MessagePack, or a validator of theirs
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
