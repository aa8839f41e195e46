"""What is read from Redis is believed only if it is what this code wrote, for this key."""

import asyncio
from dataclasses import replace
from typing import Any
from zlib import crc32

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import BaseModel
from redis.asyncio import Redis

from app.core.cache import Cache
from app.core.cache.entry import MAX_PAYLOAD, Entry, Miss, decode, encode, entry_id
from app.core.redis import ClientOptions, create_client
from app.core.serializers.json import JsonSerializer
from tests.core.cache.harness import PATIENT, Clock, Source, keys_of

SCHEMA, KEY, OTHER_KEY, VERSIONS = b"schema--", b"key-----", b"other---", b"policy--tag-----"
ENTRY = Entry(
    id=b"identity",
    created=1_000,
    fresh_until=2_000,
    stale_until=3_000,
    error_until=4_000,
    cost=5,
    versions=VERSIONS,
    negative=False,
    payload=b'{"name": "value"}' * 20,
)


def packed(entry: Entry = ENTRY, *, compress_from: int = 100) -> bytes:
    return encode(entry, serializer=1, schema=SCHEMA, key=KEY, compress_from=compress_from)


def unpacked(raw: bytes | None, **expected: Any) -> Entry | Miss:
    mine: dict[str, Any] = {"serializer": 1, "schema": SCHEMA, "key": KEY, "versions": VERSIONS}
    return decode(raw, **(mine | expected))


@pytest.mark.parametrize("compress_from", [0, 100, 10_000])
def test_an_entry_comes_back_as_it_was(compress_from: int) -> None:
    assert unpacked(packed(compress_from=compress_from)) == ENTRY
    assert entry_id(packed()) == ENTRY.id


def test_what_does_not_get_smaller_is_not_compressed() -> None:
    short = replace(ENTRY, payload=b"x")
    assert packed(short, compress_from=0) == packed(short, compress_from=10_000)
    assert len(packed(compress_from=0)) < len(packed(compress_from=10_000))


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        ({"key": OTHER_KEY}, Miss.KEY),
        ({"schema": b"changed-"}, Miss.SCHEMA),
        ({"serializer": 2}, Miss.SERIALIZER),
        ({"versions": b"policy--renewed-"}, Miss.INVALIDATED),
        ({"versions": b"policy--"}, Miss.INVALIDATED),
        ({"versions": None}, Miss.INVALIDATED),
    ],
)
def test_what_does_not_match_is_a_miss_with_a_reason(
    expected: dict[str, Any], reason: Miss
) -> None:
    assert unpacked(packed(), **expected) is reason


@pytest.mark.parametrize("raw", [b"", b"\xc5", b"\x80\x04pickle", b'{"json": 1}' * 20])
def test_what_is_no_entry_is_a_miss(raw: bytes) -> None:
    assert unpacked(raw) is Miss.FORMAT


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_format_version_is_a_miss(version: int) -> None:
    raw = bytearray(packed())
    raw[2] = version
    assert unpacked(bytes(raw)) is Miss.FORMAT


def test_flags_that_a_later_version_may_give_a_meaning_are_a_miss() -> None:
    raw = bytearray(packed())
    raw[3] |= 0x80
    assert unpacked(bytes(raw)) is Miss.FORMAT


def test_a_decompression_bomb_is_not_opened() -> None:
    bomb = lz4.block.compress(bytes(MAX_PAYLOAD + 1))
    assert len(bomb) < 1_000_000
    raw = packed(replace(ENTRY, payload=b"x" * 1_000))
    start = raw.index(VERSIONS) + len(VERSIONS)
    liar = (2**32 - 1).to_bytes(4, "little") + bomb[4:]
    for hostile in (raw[:start] + bomb, raw[:start] + liar):
        assert unpacked(hostile + crc32(hostile).to_bytes(4, "big")) is Miss.CORRUPT


def test_too_large_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="more than an entry may hold"):
        packed(replace(ENTRY, payload=bytes(MAX_PAYLOAD + 1)))


mutations = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 10_000), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, 10_000), st.just(0)),
    st.tuples(st.just("extend"), st.integers(0, 255), st.integers(1, 50)),
    st.tuples(st.just("drop"), st.integers(0, 10_000), st.just(0)),
)


def mutated(raw: bytes, mutation: tuple[str, int, int]) -> bytes:
    what, where, how = mutation
    at = where % (len(raw) or 1)
    match what:
        case "flip" if raw:
            return raw[:at] + bytes([raw[at] ^ how]) + raw[at + 1 :]
        case "cut":
            return raw[:at]
        case "extend":
            return raw + bytes([where]) * how
    return raw[:at] + raw[at + 1 :]


@given(st.lists(mutations, min_size=1, max_size=4), st.sampled_from([0, 10_000]))
def test_mutated_entries_never_raise_and_never_pass_for_another_key(
    changes: list[tuple[str, int, int]], compress_from: int
) -> None:
    raw = packed(compress_from=compress_from)
    for change in changes:
        raw = mutated(raw, change)
    found = unpacked(raw)
    assert isinstance(found, Miss) or found == ENTRY
    assert len(entry_id(raw)) <= 8
    # The fingerprint of a key is 8 bytes: a few flips do not make it that of another.
    assert isinstance(unpacked(raw, key=OTHER_KEY), Miss)


class Before(BaseModel):
    name: str


class After(BaseModel):
    name: str
    price: int = 0


def misses(reason: Miss) -> float:
    return (
        REGISTRY.get_sample_value("cache_misses_total", {"policy": "item", "reason": reason}) or 0
    )


async def test_a_model_that_changed_costs_a_load(cache: Cache) -> None:
    policy, before, after = (
        cache.policy("item", ttl=60),
        Source(Before(name="a")),
        misses(Miss.SCHEMA),
    )

    async def old() -> Before:
        return await before.load()

    async def new() -> After:
        return After(name="a", price=1)

    await policy.get_or_load(1, old)
    assert await policy.get_or_load(1, new) == After(name="a", price=1)
    assert misses(Miss.SCHEMA) == after + 1


async def test_bytes_moved_to_another_key_are_not_believed(cache: Cache, redis: Redis) -> None:
    policy = cache.policy("item", str, ttl=60)
    await policy.get_or_load("alice", Source("alice's").load)
    alice, bob = (keys_of(policy, name).value for name in ("alice", "bob"))
    await redis.copy(alice, bob)
    count = misses(Miss.KEY)
    assert await policy.get_or_load("bob", Source("bob's").load) == "bob's"
    assert misses(Miss.KEY) == count + 1
    assert await policy.get_or_load("bob", Source("again").load) == "bob's"  # it was replaced


@given(st.lists(mutations, min_size=1, max_size=3))
def test_whatever_lies_under_a_key_is_the_value_or_a_miss(
    raw_server: tuple[Any, ...], changes: list[tuple[str, int, int]]
) -> None:
    runner, policy, redis, key = raw_server

    async def check() -> None:
        source = Source(After(name="a" * 2000, price=1))
        await policy.invalidate(1)
        await policy.get_or_load(1, source.load)
        raw = await redis.get(key)
        for change in changes:
            raw = mutated(raw, change)
        await redis.set(key, raw)
        assert await policy.get_or_load(1, source.load) == source.value

    runner.run(check())


@pytest.fixture(scope="module")
def raw_server(shared_server: Any) -> Any:
    """A cache on a loop of its own: hypothesis runs many examples within one test."""
    with asyncio.Runner() as runner:
        # Nothing here is about timeouts, which a busy machine would not keep.
        options = ClientOptions(
            name="mutations", timeout=PATIENT, connect_timeout=PATIENT, pool_timeout=PATIENT
        )
        client = create_client(shared_server.url, options)
        cache = Cache(
            client, service="mutations", serializer=JsonSerializer(), read_timeout=PATIENT
        )
        policy = cache.policy("item", After, ttl=60)
        yield runner, policy, client, keys_of(policy, 1).value
        runner.run(client.aclose())


@pytest.mark.parametrize("command", [("HSET", "f", "v"), ("RPUSH", "v"), ("SET", "")], ids=str)
async def test_a_key_of_another_kind_is_replaced(
    cache: Cache, redis: Redis, command: tuple[str, ...]
) -> None:
    policy, source = cache.policy("item", str, ttl=60), Source("value")
    name, *arguments = command
    await redis.execute_command(name, keys_of(policy, 1).value, *arguments)
    for _ in range(3):
        assert await policy.get_or_load(1, source.load) == "value"
    assert source.loads == 1


async def test_an_entry_from_the_future_is_not_fresh_for_longer(cache: Cache, clock: Clock) -> None:
    """It was written by a host whose clock is wrong, or before the clock of this one went back."""
    policy = cache.policy("item", str, ttl=60, jitter=0, stale_if_error=3600, early_refresh=0)
    count = misses(Miss.FUTURE)
    for ahead, expected in ((4, 0), (600, 1)):
        await policy.clear()
        clock.advance(ahead)
        await policy.get_or_load(1, Source("old").load)
        clock.advance(61 - ahead)
        assert misses(Miss.FUTURE) == count
        await policy.get_or_load(1, Source("new").load)
        assert misses(Miss.FUTURE) == count + expected
    assert await policy.get_or_load(1, Source("newer").load) == "new"
