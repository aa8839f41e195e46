"""What every serializer offers. The cache knows this and nothing else about the one chosen."""

from typing import Any, Protocol


class DecodeError(ValueError):
    """Bytes that this codec cannot turn back into a value. The cache takes them for a miss."""


class SignatureError(DecodeError):
    """Bytes that nobody with a known key signed for this place. Nothing of them was decoded."""


class NotStorable(ValueError):
    """A value that is fine to return and not to be kept."""


class Codec(Protocol):
    """Turns values of one type into bytes and back."""

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that change when the shape of the type does."""

    @property
    def shareable(self) -> bool:
        """Whether nobody ever changes the values, so that one may serve many callers."""

    def dumps(self, value: Any, *, key: bytes) -> bytes:
        """The bytes to keep under `key`.

        Raises:
            NotStorable: the value is for this caller only.
            ValueError: the value is not of the type, or would come back as another one.
        """

    def loads(self, payload: bytes, *, key: bytes) -> Any:
        """The value that `dumps` was given, of the same type.

        Raises:
            SignatureError: the codec signs, and these bytes were not signed for this type and key.
            DecodeError: these are not bytes that `dumps` made for this type.
        """


class Serializer(Protocol):
    """Makes the codec of a type."""

    format: int
    """1 byte, kept in every entry: entries of another serializer are told apart by it."""

    def codec(self, type_: Any) -> Codec:
        """The codec of `type_`: a class, or any annotation pydantic understands.

        Raises:
            TypeError: values of this type cannot be serialized.
        """
