"""How a value becomes bytes for the cache and how those bytes become the same value again."""

from app.core.serializers.protocol import (
    Codec,
    DecodeError,
    NotStorable,
    Serializer,
    SignatureError,
)

__all__ = ["Codec", "DecodeError", "NotStorable", "Serializer", "SignatureError"]
