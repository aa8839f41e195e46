"""The binary envelope around every cached value.

An entry says of itself what it is: its format, serializer, type and key, until when it is fresh,
what it cost to compute, and which versions of its policy and tags it was computed under. Whatever
does not match is a miss with a reason, never an exception: a deploy that changes a model, a swapped
key or a foreign byte costs one computation.
"""

from dataclasses import dataclass
from enum import StrEnum
from secrets import token_bytes
from struct import Struct
from zlib import crc32

import lz4.block

MAX_PAYLOAD = 64 * 1024 * 1024
VERSION_SIZE = 8
ID_SIZE = 8
ID_OFFSET = 5

_MAGIC = b"\xc5\x1e"
_FORMAT = 1
_NEGATIVE = 1
_COMPRESSED = 2
# The head of an entry, big-endian. The versions (8 bytes each) and the payload follow it, and a
# CRC-32 of all that: a text with one letter changed would be a value, too.
#   magic, format, flags, serializer format; id; type fingerprint; key fingerprint;
#   created, fresh until, stale until, error until (ms since 1970); cost (ms); number of versions
_HEADER = Struct(">2sBBB8s8s8sQQQQIB")
_CHECKSUM_SIZE = 4


class Miss(StrEnum):
    """Why an entry could not be used."""

    ABSENT = "absent"
    FORMAT = "format"
    SERIALIZER = "serializer"
    SCHEMA = "schema"
    KEY = "key"
    INVALIDATED = "invalidated"
    CORRUPT = "corrupt"
    SIGNATURE = "signature"
    EXPIRED = "expired"
    FUTURE = "future"
    UNAVAILABLE = "unavailable"
    FIRST_ASK = "first_ask"
    NOT_KEPT = "not_kept"
    DISABLED = "disabled"


# What stands in place of a value that is not there: the first bytes of an entry, and an id.
_MARKS = {
    Miss.FIRST_ASK: _MAGIC + bytes([_FORMAT, 0x80, 0]),
    Miss.NOT_KEPT: _MAGIC + bytes([_FORMAT, 0x80, 1]),
}
_MEANINGS = {head: reason for reason, head in _MARKS.items()}


@dataclass(slots=True)
class Entry:
    """One cached value; times in milliseconds since 1970."""

    id: bytes
    created: int
    fresh_until: int
    stale_until: int
    error_until: int
    cost: int
    """How long computing the value took, in milliseconds."""
    versions: bytes
    negative: bool
    payload: bytes
    early_refresh_from: int = 0
    """Before this moment nobody need think of refreshing it. Not stored: options may change."""


def encode(
    entry: Entry, *, serializer: int, schema: bytes, key: bytes, compress_from: int
) -> bytes:
    """Return the bytes of an entry.

    Raises:
        ValueError: the payload is larger than `MAX_PAYLOAD` bytes.
    """
    payload, flags = entry.payload, _NEGATIVE if entry.negative else 0
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"{len(payload)} bytes are more than an entry may hold ({MAX_PAYLOAD})")
    if len(payload) >= compress_from:
        compressed = lz4.block.compress(payload)
        if len(compressed) < len(payload):
            payload, flags = compressed, flags | _COMPRESSED
    header = _HEADER.pack(
        _MAGIC,
        _FORMAT,
        flags,
        serializer,
        entry.id,
        schema,
        key,
        entry.created,
        entry.fresh_until,
        entry.stale_until,
        entry.error_until,
        min(entry.cost, 0xFFFFFFFF),
        len(entry.versions) // VERSION_SIZE,
    )
    raw = header + entry.versions + payload
    return raw + crc32(raw).to_bytes(_CHECKSUM_SIZE, "big")


def mark(reason: Miss) -> bytes:
    """Return what is stored in place of a value, so that readers know why it is not there.

    FIRST_ASK: it is kept at the second ask only, and this was the first one. NOT_KEPT: its loader
    did not want it kept.
    """
    return _MARKS[reason] + token_bytes(ID_SIZE)


def decode(
    raw: bytes | None, *, serializer: int, schema: bytes, key: bytes, versions: bytes | None
) -> Entry | Miss:
    """Return the entry in `raw`, or why it is not one for this key, type and serializer.

    `versions` are the current ones; None says that one of them is missing, which makes every
    entry invalid.
    """
    if raw is None:
        return Miss.ABSENT
    if len(raw) < _HEADER.size + _CHECKSUM_SIZE or raw[:2] != _MAGIC or raw[2] != _FORMAT:
        return _MEANINGS.get(raw[:ID_OFFSET], Miss.FORMAT)
    (_, _, flags, format_, id_, schema_, key_, created, fresh, stale, error, cost, count) = (
        _HEADER.unpack_from(raw)
    )
    if flags & ~(_NEGATIVE | _COMPRESSED):
        return Miss.FORMAT
    if key_ != key:
        return Miss.KEY
    if format_ != serializer:
        return Miss.SERIALIZER
    if schema_ != schema:
        return Miss.SCHEMA
    start = _HEADER.size + count * VERSION_SIZE
    kept_versions = raw[_HEADER.size : start]
    if kept_versions != versions:
        return Miss.INVALIDATED
    body, checksum = memoryview(raw)[:-_CHECKSUM_SIZE], raw[-_CHECKSUM_SIZE:]
    if crc32(body) != int.from_bytes(checksum, "big"):
        return Miss.CORRUPT
    payload = raw[start:-_CHECKSUM_SIZE]
    if flags & _COMPRESSED:
        restored = _decompress(payload)
        if restored is None:
            return Miss.CORRUPT
        payload = restored
    return Entry(
        id=id_,
        created=created,
        fresh_until=fresh,
        stale_until=stale,
        error_until=error,
        cost=cost,
        versions=kept_versions,
        negative=bool(flags & _NEGATIVE),
        payload=payload,
    )


def entry_id(raw: bytes | None) -> bytes:
    """Return the id of whatever is stored, usable or not; empty if there is nothing."""
    return b"" if raw is None else raw[ID_OFFSET : ID_OFFSET + ID_SIZE]


def _decompress(payload: bytes) -> bytes | None:
    # The block starts with its size: a forged one must not make us allocate gigabytes.
    if len(payload) < 4 or int.from_bytes(payload[:4], "little") > MAX_PAYLOAD:
        return None
    try:
        restored: bytes = lz4.block.decompress(payload)
    except (lz4.block.LZ4BlockError, MemoryError, ValueError):
        return None
    return restored
