"""What was decoded last is known by its bytes, its versions and its codec, and by nothing less."""

from dataclasses import dataclass, field

import pytest

from app.core.cache.decode_memo import DecodeMemo
from app.core.cache.entry import Miss
from app.core.cache.entry_codec import EntryCodec
from app.core.cache.keys import EntryKeys, Keyspace
from app.core.cache.options import PolicyOptions
from app.core.cache.results import ReadResult

VERSION = b"version1"


@dataclass
class Codec:
    """Counts what it decodes."""

    shareable: bool = True
    fingerprint: bytes = b"8 bytes!"
    decoded: list[bytes] = field(default_factory=list)

    def dumps(self, value: bytes, *, key: bytes) -> bytes:
        return value

    def loads(self, payload: bytes, *, key: bytes) -> list[bytes]:
        self.decoded.append(payload)
        return [payload]


def entry_codec(values: Codec) -> EntryCodec:
    return EntryCodec("decoded", PolicyOptions(ttl=60), values, 9)


def keys_of(key: str) -> EntryKeys:
    return Keyspace("service").entry_keys("decoded", key, [])


def stored(codec: EntryCodec, keys: EntryKeys, value: bytes) -> bytes:
    raw = codec.pack(codec.new_entry(value, 0, VERSION), value, keys)
    assert raw is not None
    return raw


def read(
    memo: DecodeMemo,
    codec: EntryCodec,
    key: str,
    raw: bytes | None,
    version: bytes | None = VERSION,
) -> ReadResult:
    # A copy, as every reply of Redis is one.
    copy = None if raw is None else bytes(bytearray(raw))
    return memo.unpack(codec, keys_of(key), copy, [version], at=7.0)


def test_the_same_bytes_are_decoded_once() -> None:
    values, memo = Codec(), DecodeMemo()
    codec = entry_codec(values)
    raw = stored(codec, keys_of("a"), b"value")
    first, second = read(memo, codec, "a", raw), read(memo, codec, "a", raw)
    assert values.decoded == [b"value"]
    assert second.value is first.value
    assert second == first
    assert second is not first


def test_other_bytes_versions_and_kinds_are_looked_at() -> None:
    values, memo = Codec(), DecodeMemo()
    codec = entry_codec(values)
    raw = stored(codec, keys_of("a"), b"value")
    read(memo, codec, "a", raw)
    assert read(memo, codec, "a", None).miss_reason is Miss.ABSENT
    assert read(memo, codec, "a", raw, b"version2").miss_reason is Miss.INVALIDATED
    assert read(memo, codec, "a", raw, None).miss_reason is Miss.INVALIDATED
    assert read(memo, codec, "a", raw[:-1] + bytes([raw[-1] ^ 1])).miss_reason is Miss.CORRUPT
    assert read(memo, codec, "b", raw).miss_reason is Miss.KEY
    other = entry_codec(Codec(fingerprint=b"another!"))
    assert read(memo, other, "a", raw).miss_reason is Miss.SCHEMA
    assert read(memo, codec, "a", stored(codec, keys_of("a"), b"new")).value == [b"new"]


def test_what_callers_may_change_is_theirs() -> None:
    values, memo = Codec(shareable=False), DecodeMemo()
    codec = entry_codec(values)
    raw = stored(codec, keys_of("a"), b"value")
    read(memo, codec, "a", raw).value.append(b"changed")
    assert read(memo, codec, "a", raw).value == [b"value"]


@pytest.mark.parametrize(("size", "again"), [(10, 0), (1_000_000, 10)])
def test_its_memory_has_an_end(size: int, again: int) -> None:
    values, memo = Codec(), DecodeMemo(max_bytes=100_000)
    codec = entry_codec(values)
    raws = {f"{n}": stored(codec, keys_of(f"{n}"), b"x" * size) for n in range(10)}
    for _ in range(2):
        for key, raw in raws.items():
            assert read(memo, codec, key, raw).value == [b"x" * size]
    assert len(values.decoded) == 10 + again


def test_the_newest_are_kept() -> None:
    values, memo = Codec(), DecodeMemo(max_bytes=100_000)
    codec = entry_codec(values)
    for n in range(1_000):
        key = str(n)
        raw = stored(codec, keys_of(key), b"value")
        read(memo, codec, key, raw)
        read(memo, codec, key, raw)
    assert len(values.decoded) == 1_000
