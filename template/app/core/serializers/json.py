"""JSON by pydantic: safe with bytes from anywhere, readable in redis-cli, fast."""

from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from app.core.serializers.comparison import verify_round_trip
from app.core.serializers.protocol import DecodeError
from app.core.serializers.type_info import adapter_of, json_shape

# For types that are not models. A model with binary fields, or with infinite numbers or NaN, needs
# the same in its own configuration: JSON cannot express them.
_EXACT = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings")


class JsonCodec:
    """Dumps and validates by field name, so that aliases for clients do not matter."""

    shareable = False

    def __init__(self, adapter: TypeAdapter[Any], fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self._adapter = adapter

    def dumps(self, value: Any, *, key: bytes) -> bytes:
        try:
            payload = self._adapter.dump_json(
                value, round_trip=True, by_alias=False, warnings="error"
            )
        except PydanticSerializationError as error:
            raise ValueError(str(error)) from error
        return verify_round_trip(self, value, payload, key=key)

    def loads(self, payload: bytes, *, key: bytes) -> Any:
        try:
            return self._adapter.validate_json(payload, by_name=True, by_alias=False)
        except ValidationError as error:
            raise DecodeError(f"{error.error_count()} fields do not fit the type") from error
        except Exception as error:  # raised by a validator of the type
            raise DecodeError(f"it cannot be validated: {type(error).__name__}") from error


class JsonSerializer:
    """The `json` answer."""

    format = 1

    def codec(self, type_: Any) -> JsonCodec:
        adapter = adapter_of(type_, _EXACT)
        return JsonCodec(adapter, json_shape(type_, adapter))
