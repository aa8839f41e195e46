"""Pickle, signed: for values that no other serializer keeps, and only with keys that are secret.

Whoever can make a service unpickle bytes of theirs runs code in it. So each payload starts with an
HMAC-SHA-256 over everything that says what it is: this format, the type, the key in Redis and the
pickle. It is compared in constant time before a byte is unpickled, and nothing about how that is
done is read from the payload. A payload that was moved to another key, or to the place of another
type, does not fit its signature either.

An older value of the same key does, as long as its signing key is known.
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
"""Characters of a signing key."""

_ALGORITHM = "sha256"
_SIZE = 32
_PURPOSE = b"cache-pickle-1"
_PROTOCOL = 5


class PickleCodec:
    """Signs with the first key, and believes all of them."""

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
        except Exception as error:  # a validator of theirs
            raise ValueError(f"it cannot be validated: {type(error).__name__}") from error
        if difference(value, valid) is not None:
            raise ValueError(f"{type(value).__name__} does not fit the type")
        try:
            pickled = pickle.dumps(value, _PROTOCOL)
        except Exception as error:  # whatever a class raises that does not want to be pickled
            raise ValueError(f"it cannot be pickled: {error}") from error
        payload = self._signature(self._signing_keys[0], pickled, key) + pickled
        return verify_round_trip(self, value, payload, key=key)

    def loads(self, payload: bytes, *, key: bytes) -> Any:
        signature, pickled = payload[:_SIZE], payload[_SIZE:]
        if not any(
            hmac.compare_digest(signature, self._signature(signing_key, pickled, key))
            for signing_key in self._signing_keys
        ):
            raise SignatureError("the signature does not fit the type, the key and the value")
        try:
            return pickle.loads(pickled)
        except Exception as error:  # a class that has moved since, and what its __setstate__ raises
            raise DecodeError(f"it cannot be unpickled: {type(error).__name__}") from error

    def _signature(self, signing_key: bytes, pickled: bytes, key: bytes) -> bytes:
        # All parts in front of the last one are of fixed length or come with it.
        place = _PURPOSE + self.fingerprint + len(key).to_bytes(4, "big") + key
        return hmac.digest(signing_key, place + pickled, _ALGORITHM)


class PickleSerializer:
    """The `pickle` answer."""

    format = 3

    def __init__(self, signing_keys: Sequence[str]) -> None:
        """The first key signs; the others are those that it replaces, and are believed too.

        Raises:
            ValueError: there is none, or one is shorter than `SHORTEST_KEY` characters.
        """
        if not signing_keys or any(len(key) < SHORTEST_KEY for key in signing_keys):
            raise ValueError(f"signing keys are secrets of at least {SHORTEST_KEY} characters")
        self._signing_keys = [key.encode() for key in signing_keys]

    def codec(self, type_: Any) -> PickleCodec:
        adapter = adapter_of(type_)
        # An instance comes back without being validated, so the type has to be exactly the same:
        # set and frozenset have one JSON schema. Libraries change what their pickles hold.
        versions = [pydantic.VERSION, *sys.version_info[:2]]
        described = fingerprint(repr(type_), _shape(adapter.core_schema), versions)
        return PickleCodec(adapter, described, self._signing_keys)


def _shape(schema: Any) -> Any:
    """A core schema as JSON can hold it: classes and functions by their names."""
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
