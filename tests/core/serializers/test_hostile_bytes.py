"""Bytes that no codec wrote: an error that the cache takes for a miss, and nothing is run."""

import pickle
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ormsgpack import Ext, packb
from pydantic import AfterValidator, BaseModel, field_validator

from app.core.serializers import DecodeError, Serializer, SignatureError
from app.core.serializers.pickle import PickleCodec, PickleSerializer
from tests.core.serializers.codecs import KEY, SERIALIZERS, SIGNING_KEY

serializers = pytest.mark.parametrize("serializer", SERIALIZERS.values(), ids=SERIALIZERS)
OTHER_KEY = b"svc:1:item:{i2}"
SIZE = 32


class Item(BaseModel):
    id: UUID
    name: str
    seen: list[datetime]


class Same(BaseModel):
    """Has the fields of an item, and is none."""

    id: UUID
    name: str
    seen: list[datetime]


class Picky(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        return {"a": "a"}[name]  # a KeyError, which pydantic does not take for its own


ITEM = Item(id=UUID(int=7), name="lamp", seen=[datetime(2020, 1, 1, tzinfo=UTC)])


@serializers
@given(foreign=st.binary(max_size=200))
def test_foreign_bytes_are_refused(serializer: Serializer, foreign: bytes) -> None:
    with pytest.raises(DecodeError):
        serializer.codec(Item).loads(foreign, key=KEY)


@serializers
def test_truncated_bytes_are_refused(serializer: Serializer) -> None:
    codec = serializer.codec(Item)
    payload = codec.dumps(ITEM, key=KEY)
    for length in range(len(payload)):
        with pytest.raises(DecodeError):
            codec.loads(payload[:length], key=KEY)


@serializers
@given(data=st.data())
def test_mutated_bytes_are_refused_or_of_the_type(serializer: Serializer, data: Any) -> None:
    """The checksum of an entry finds what is still a value; see test_entries.py of the cache."""
    codec = serializer.codec(Item)
    payload = bytearray(codec.dumps(ITEM, key=KEY))
    for at in data.draw(st.lists(st.integers(0, len(payload) - 1), min_size=1, max_size=4)):
        payload[at] ^= data.draw(st.integers(1, 255))
    try:
        restored = codec.loads(bytes(payload), key=KEY)
    except DecodeError:
        return
    assert type(restored) is Item
    # All flips may have undone each other. Otherwise no signature fits.
    assert serializer.format != 3 or restored == ITEM


@pytest.mark.parametrize(
    ("writer", "reader"),
    [(one, other) for one in SERIALIZERS for other in SERIALIZERS if one != other],
)
def test_bytes_of_another_serializer_are_refused(writer: str, reader: str) -> None:
    payload = SERIALIZERS[writer].codec(Item).dumps(ITEM, key=KEY)
    with pytest.raises(DecodeError):
        SERIALIZERS[reader].codec(Item).loads(payload, key=KEY)


@serializers
def test_an_error_of_a_validator_does_not_leave_a_store(serializer: Serializer) -> None:
    def known(name: str) -> str:
        return {"a": "a"}[name]

    codec = serializer.codec(list[Annotated[str, AfterValidator(known)]])
    assert codec.loads(codec.dumps(["a"], key=KEY), key=KEY) == ["a"]
    with pytest.raises(ValueError, match="KeyError"):
        codec.dumps(["b"], key=KEY)


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_an_error_of_a_validator_is_refused_like_any_other(name: str) -> None:
    codec = SERIALIZERS[name].codec(Picky)
    payload = codec.dumps(Picky(name="a"), key=KEY)
    with pytest.raises(DecodeError):
        codec.loads(payload.replace(b"a", b"b").replace(b"nbme", b"name"), key=KEY)


def deep(levels: int) -> bytes:
    packed = packb(1)
    for _ in range(levels):
        packed = packb(Ext(3, b"\x91" + packed))
    return packed


@pytest.mark.parametrize(
    "payload",
    [
        b"\xdd\xff\xff\xff\xff",  # a list of 4 billion parts
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xc6\xff\xff\xff\xff",  # 4 GB of bytes
        b"\x91" * 100_000,
        deep(3_000),
        packb(Ext(99, b"")),
        packb(Ext(1, b"9" * 10_000)),
        packb(Ext(6, b"no date")),
        packb(Ext(11, b"too short")),
        packb(Ext(4, packb([[1]]))),
    ],
    ids=lambda payload: payload[:5].hex(),
)
def test_hostile_messagepack_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        SERIALIZERS["msgpack"].codec(Any).loads(payload, key=KEY)


# Pickle: the bytes of somebody who can write to Redis, and does not know a key.

RUN: list[str] = []


def run(what: str) -> str:
    RUN.append(what)
    return what


class Attack:
    def __reduce__(self) -> Any:
        return run, ("attack",)


class Unsigned(PickleCodec):
    """The control: a codec that unpickles what it finds."""

    def loads(self, payload: bytes, *, key: bytes) -> Any:
        return pickle.loads(payload[SIZE:])


def codecs(type_: Any, *keys: str) -> tuple[PickleCodec, Unsigned]:
    signed = PickleSerializer(keys or (SIGNING_KEY,)).codec(type_)
    return signed, Unsigned(signed._adapter, signed.fingerprint, signed._signing_keys)


@pytest.mark.parametrize(
    "signature", [b"\0" * SIZE, b"sha256:" + b"\0" * 25, b""], ids=["zeros", "a name", "none"]
)
def test_nothing_is_unpickled_without_a_signature(signature: bytes) -> None:
    signed, unsigned = codecs(Item)
    payload = signature + pickle.dumps(Attack())
    RUN.clear()
    with pytest.raises(SignatureError):
        signed.loads(payload, key=KEY)
    assert RUN == []
    unsigned.loads(bytes(SIZE) + pickle.dumps(Attack()), key=KEY)
    assert RUN == ["attack"], "the control: the attack works where nothing is verified"


def test_a_signature_of_another_pickle_does_not_help() -> None:
    signed, _ = codecs(Item)
    payload = signed.dumps(ITEM, key=KEY)
    RUN.clear()
    with pytest.raises(SignatureError):
        signed.loads(payload[:SIZE] + pickle.dumps(Attack()), key=KEY)
    assert RUN == []


def test_a_pickle_is_bound_to_its_key() -> None:
    signed, unsigned = codecs(Item)
    payload = signed.dumps(ITEM, key=KEY)
    assert signed.loads(payload, key=KEY) == ITEM
    with pytest.raises(SignatureError):
        signed.loads(payload, key=OTHER_KEY)
    assert unsigned.loads(payload, key=OTHER_KEY) == ITEM, "the control: it takes it"


@pytest.mark.parametrize("cut", range(1, 8))
def test_the_end_of_a_key_is_not_the_start_of_a_pickle(cut: int) -> None:
    signed, _ = codecs(Item)
    payload = signed.dumps(ITEM, key=KEY)
    moved = payload[:SIZE] + KEY[-cut:] + payload[SIZE:]
    with pytest.raises(SignatureError):
        signed.loads(moved, key=KEY[:-cut])


def test_a_pickle_is_bound_to_its_type() -> None:
    signed, unsigned = codecs(Item)
    other, _ = codecs(Same)
    payload = signed.dumps(ITEM, key=KEY)
    with pytest.raises(SignatureError):
        other.loads(payload, key=KEY)
    assert type(unsigned.loads(payload, key=KEY)) is Item


NEW, OLD, FOREIGN = "new" * 12, "old" * 12, "foreign" * 6


def test_a_key_is_replaced_without_losing_what_the_old_one_signed() -> None:
    before, during, after = codecs(Item, OLD)[0], codecs(Item, NEW, OLD)[0], codecs(Item, NEW)[0]
    old, new = before.dumps(ITEM, key=KEY), during.dumps(ITEM, key=KEY)
    assert during.loads(old, key=KEY) == during.loads(new, key=KEY) == ITEM
    assert after.loads(new, key=KEY) == ITEM
    for codec, payload in (after, old), (before, new), (codecs(Item, FOREIGN)[0], new):
        with pytest.raises(SignatureError):
            codec.loads(payload, key=KEY)


@pytest.mark.parametrize("keys", [[], [""], ["short"], ["x" * 31], [NEW, "short"]], ids=str)
def test_weak_keys_are_refused(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="32 characters"):
        PickleSerializer(keys)


def test_a_class_that_is_gone_is_a_miss() -> None:
    signed, _ = codecs(Item)
    pickled = pickle.dumps(ITEM).replace(b"Item", b"Gone")
    payload = signed._signature(signed._signing_keys[0], pickled, KEY) + pickled
    with pytest.raises(DecodeError, match="AttributeError") as refused:
        signed.loads(payload, key=KEY)
    assert not isinstance(refused.value, SignatureError)


def test_what_cannot_be_pickled_is_refused() -> None:
    codec = SERIALIZERS["pickle"].codec(Any)
    with pytest.raises(ValueError, match="cannot be pickled"):
        codec.dumps({"function": lambda: None}, key=KEY)
