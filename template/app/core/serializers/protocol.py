"""The interface of serializers. The cache knows nothing else about the one that was chosen."""

from typing import Any, Protocol


class DecodeError(ValueError):
    """The bytes cannot be turned back into a value. The cache treats them as a miss."""


class SignatureError(DecodeError):
    """The bytes were not signed for this place with a known key. None of them was decoded."""


class NotStorable(ValueError):
    """The value may be returned to the caller, but must not be stored."""


class Codec(Protocol):
    """Turns values of one type into bytes and back."""

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that change with the structure of the type."""

    @property
    def shareable(self) -> bool:
        """Whether values are never changed, so that callers may share one."""

    def dumps(self, value: Any, *, key: bytes) -> bytes:
        """Return the bytes to store under `key`.

        Raises:
            NotStorable: the value is for this caller only.
            ValueError: the value is not of the type, or would come back different.
        """

    def loads(self, payload: bytes, *, key: bytes) -> Any:
        """Return the value that `dumps` was given, of the same type.

        Raises:
            SignatureError: the codec signs, and these bytes were not signed for this type and key.
            DecodeError: `dumps` did not make these bytes for this type.
        """


class Serializer(Protocol):
    """Makes the codec of a type."""

    format: int
    """1 byte that every entry begins with, to recognise entries of another serializer."""

    def codec(self, type_: Any) -> Codec:
        """Return the codec of a class, or of any annotation that pydantic understands.

        Raises:
            TypeError: values of this type cannot be serialized.
        """
