"""Pickle, signed: for values that no other serializer can store, and only with secret keys.

Whoever makes a service unpickle bytes of their choice runs code in it. So each payload starts with
an HMAC-SHA-256 of everything that identifies it: this format, the type, the key in Redis and the
pickle. It is compared in constant time before a byte is unpickled, and nothing in the payload
decides how. A payload that was moved to another key, or to a value of another type, is refused.

An older value of the same key is accepted as long as its signing key is known.
"""

import hmac
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import pydantic
from pydantic import TypeAdapter, ValidationError

from app.core.serializers.comparison import difference, verify_round_trip
from app.core.serializers.protocol import DecodeError, SignatureError
from app.core.serializers.type_info import adapter_of, fingerprint

SHORTEST_KEY = 32
"""Minimum length of a signing key, in characters."""

_ALGORITHM = "sha256"
_SIZE = 32
_PURPOSE = b"cache-pickle-1"
_PROTOCOL = 5


class PickleCodec:
    """Signs with the first key, and accepts signatures of all keys."""

    shareable = False

    def __init__(
        self, adapter: TypeAdapter[Any], fingerprint: bytes, signing_keys: Sequence[bytes]
    ) -> None:
        self.fingerprint = fingerprint
        self._adapter = adapter
        self._signing_keys = signing_keys

    def dumps(self, value: Any, *, key: bytes) -> bytes:
        try:
            valid = self._adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(f"{error.error_count()} fields do not fit the type") from error
        except Exception as error:  # raised by a validator of the type
            raise ValueError(f"it cannot be validated: {type(error).__name__}") from error
        if difference(value, valid) is not None:
            raise ValueError(f"{type(value).__name__} does not fit the type")
        try:
            pickled = pickle.dumps(value, _PROTOCOL)
        except Exception as error:  # raised by a class that refuses to be pickled
            raise ValueError(f"it cannot be pickled: {error}") from error
        payload = self._signature(self._signing_keys[0], pickled, key) + pickled
        return verify_round_trip(self, value, payload, key=key)

    def loads(self, payload: bytes, *, key: bytes) -> Any:
        signature, pickled = payload[:_SIZE], payload[_SIZE:]
        if not any(
            hmac.compare_digest(signature, self._signature(signing_key, pickled, key))
            for signing_key in self._signing_keys
        ):
            raise SignatureError("the signature does not match the type, the key and the value")
        try:
            return pickle.loads(pickled)
        except Exception as error:  # a class that has moved, or raised by its __setstate__
            raise DecodeError(f"it cannot be unpickled: {type(error).__name__}") from error

    def _signature(self, signing_key: bytes, pickled: bytes, key: bytes) -> bytes:
        # Each part before the last one has a fixed length, or its length in front of it.
        place = _PURPOSE + self.fingerprint + len(key).to_bytes(4, "big") + key
        return hmac.digest(signing_key, place + pickled, _ALGORITHM)


class PickleSerializer:
    """The `pickle` answer."""

    format = 3

    def __init__(self, signing_keys: Sequence[str]) -> None:
        """Sign with the first key; accept signatures of the others, which it replaces.

        Raises:
            ValueError: there is none, or one is shorter than `SHORTEST_KEY` characters.
        """
        if not signing_keys or any(len(key) < SHORTEST_KEY for key in signing_keys):
            raise ValueError(f"signing keys are secrets of at least {SHORTEST_KEY} characters")
        self._signing_keys = [key.encode() for key in signing_keys]

    def codec(self, type_: Any) -> PickleCodec:
        adapter = adapter_of(type_)
        # Instances are not validated when they come back, so the type must be exactly the same:
        # set and frozenset have the same JSON schema. Pickles change with versions of libraries.
        versions = [pydantic.VERSION, *sys.version_info[:2]]
        described = fingerprint(repr(type_), _shape(adapter.core_schema), versions)
        return PickleCodec(adapter, described, self._signing_keys)


def _shape(schema: Any) -> Any:
    """Turn a core schema into what JSON can hold: classes and functions become their names."""
    match schema:
        case dict():
            return [[_shape(name), _shape(part)] for name, part in schema.items()]
        case list() | tuple():
            return [_shape(part) for part in schema]
        case type():
            private = getattr(schema, "__private_attributes__", {})
            return [schema.__module__, schema.__qualname__, *private]
        case None | str() | bool() | int() | float():
            return str(schema)
    return getattr(schema, "__qualname__", type(schema).__qualname__)
