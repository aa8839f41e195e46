"""Serializers: how values become bytes for the cache, and the same values again."""

from app.core.serializers.protocol import (
    Codec,
    DecodeError,
    NotStorable,
    Serializer,
    SignatureError,
)

__all__ = ["Codec", "DecodeError", "NotStorable", "Serializer", "SignatureError"]
