"""What was decoded last is known by its bytes, its versions and its kind, and by nothing less."""

from dataclasses import dataclass, field

import pytest

from app.core.cache.decode_memo import Decoded
from app.core.cache.entry import Miss
from app.core.cache.entry_codec import Kind
from app.core.cache.keys import Address, Keyspace
from app.core.cache.options import PolicyOptions
from app.core.cache.results import Seen

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


def kind_of(codec: Codec) -> Kind:
    return Kind("decoded", PolicyOptions(ttl=60), codec, 9)


def address_of(key: str) -> Address:
    return Keyspace("service").address("decoded", key, [])


def stored(kind: Kind, address: Address, value: bytes) -> bytes:
    raw = kind.pack(kind.new_entry(value, 0, VERSION), value, address)
    assert raw is not None
    return raw


def read(
    decoded: Decoded, kind: Kind, key: str, raw: bytes | None, version: bytes | None = VERSION
) -> Seen:
    # A copy, as every reply of Redis is one.
    copy = None if raw is None else bytes(bytearray(raw))
    return decoded.unpack(kind, address_of(key), copy, [version], at=7.0)


def test_the_same_bytes_are_decoded_once() -> None:
    codec, decoded = Codec(), Decoded()
    kind = kind_of(codec)
    raw = stored(kind, address_of("a"), b"value")
    first, second = read(decoded, kind, "a", raw), read(decoded, kind, "a", raw)
    assert codec.decoded == [b"value"]
    assert second.value is first.value
    assert second == first
    assert second is not first


def test_other_bytes_versions_and_kinds_are_looked_at() -> None:
    codec, decoded = Codec(), Decoded()
    kind = kind_of(codec)
    raw = stored(kind, address_of("a"), b"value")
    read(decoded, kind, "a", raw)
    assert read(decoded, kind, "a", None).reason is Miss.ABSENT
    assert read(decoded, kind, "a", raw, b"version2").reason is Miss.INVALIDATED
    assert read(decoded, kind, "a", raw, None).reason is Miss.INVALIDATED
    assert read(decoded, kind, "a", raw[:-1] + bytes([raw[-1] ^ 1])).reason is Miss.CORRUPT
    assert read(decoded, kind, "b", raw).reason is Miss.KEY
    other = kind_of(Codec(fingerprint=b"another!"))
    assert read(decoded, other, "a", raw).reason is Miss.SCHEMA
    assert read(decoded, kind, "a", stored(kind, address_of("a"), b"new")).value == [b"new"]


def test_what_callers_may_change_is_theirs() -> None:
    codec, decoded = Codec(shareable=False), Decoded()
    kind = kind_of(codec)
    raw = stored(kind, address_of("a"), b"value")
    read(decoded, kind, "a", raw).value.append(b"changed")
    assert read(decoded, kind, "a", raw).value == [b"value"]


@pytest.mark.parametrize(("size", "again"), [(10, 0), (1_000_000, 10)])
def test_its_memory_has_an_end(size: int, again: int) -> None:
    codec, decoded = Codec(), Decoded(max_bytes=100_000)
    kind = kind_of(codec)
    raws = {f"{n}": stored(kind, address_of(f"{n}"), b"x" * size) for n in range(10)}
    for _ in range(2):
        for key, raw in raws.items():
            assert read(decoded, kind, key, raw).value == [b"x" * size]
    assert len(codec.decoded) == 10 + again


def test_the_newest_are_kept() -> None:
    codec, decoded = Codec(), Decoded(max_bytes=100_000)
    kind = kind_of(codec)
    for n in range(1_000):
        key = str(n)
        raw = stored(kind, address_of(key), b"value")
        read(decoded, kind, key, raw)
        read(decoded, kind, key, raw)
    assert len(codec.decoded) == 1_000
