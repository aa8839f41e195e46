"""Pickles in the cache: who can write to Redis, and knows no key, cannot make the service run code.

The envelope around a value is not signed. Whoever can write to Redis can make it say what they
like; what it holds is believed only with a signature.
"""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel
from redis.asyncio import Redis

from app.core.cache import Cache, CachePolicy
from app.core.cache.entry import Entry, Miss, decode, encode
from app.core.serializers import Serializer
from app.core.serializers.pickle import PickleSerializer
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Source, keys_of
from tests.core.serializers.codecs import SERIALIZERS, SIGNING_KEY

RUN: list[str] = []


class Secret(BaseModel):
    owner: str


def run(owner: str) -> Secret:
    RUN.append(owner)
    return Secret(owner=owner)


class Attack:
    def __reduce__(self) -> Any:
        return run, ("attacker",)


def misses(reason: Miss) -> float:
    labels = {"policy": "secret", "reason": reason}
    return REGISTRY.get_sample_value("cache_misses_total", labels) or 0


async def forge(
    redis: Redis,
    policy: CachePolicy[Any],
    serializer: Serializer,
    *,
    source: str,
    target: str,
    change: Callable[[bytes], bytes] = lambda payload: payload,
) -> None:
    """Put what is cached for `source` where `target` is read, with an envelope that fits there."""
    from_, to = (keys_of(policy, name) for name in (source, target))
    raw: Any = await redis.get(from_.value)
    versions: Any = await redis.mget(*to.versions)
    schema = serializer.codec(Secret).fingerprint
    entry = decode(
        raw,
        serializer=serializer.format,
        schema=schema,
        key=from_.fingerprint,
        versions=b"".join(versions),
    )
    assert isinstance(entry, Entry)
    forged = encode(
        replace(entry, payload=change(entry.payload)),
        serializer=serializer.format,
        schema=schema,
        key=to.fingerprint,
        compress_from=10_000,
    )
    await redis.set(to.value, forged)


async def open_secrets(another: OpenCache, serializer: Serializer) -> CachePolicy[Any]:
    cache: Cache = await another(serializer=serializer)
    return cache.policy("secret", Secret, ttl=60)


async def test_a_value_is_not_believed_under_another_key(another: OpenCache, redis: Redis) -> None:
    serializer = SERIALIZERS["pickle"]
    policy = await open_secrets(another, serializer)
    await policy.get_or_load("alice", Source(Secret(owner="alice")).load)
    await forge(redis, policy, serializer, source="alice", target="bob")
    before = misses(Miss.SIGNATURE)
    assert await policy.get_or_load("bob", Source(Secret(owner="bob")).load) == Secret(owner="bob")
    assert misses(Miss.SIGNATURE) == before + 1
    again = Source(Secret(owner="again"))
    assert await policy.get_or_load("bob", again.load) == Secret(owner="bob")  # it was replaced


async def test_the_control_without_a_signature_it_is(another: OpenCache, redis: Redis) -> None:
    serializer = SERIALIZERS["json"]
    policy = await open_secrets(another, serializer)
    await policy.get_or_load("alice", Source(Secret(owner="alice")).load)
    await forge(redis, policy, serializer, source="alice", target="bob")
    found = await policy.get_or_load("bob", Source(Secret(owner="bob")).load)
    assert found == Secret(owner="alice")


@pytest.mark.parametrize("signature", ["old", "zeros"])
async def test_a_pickle_of_somebody_else_is_a_miss_and_does_not_run(
    another: OpenCache, redis: Redis, signature: str
) -> None:
    serializer = SERIALIZERS["pickle"]
    policy = await open_secrets(another, serializer)
    await policy.get_or_load("alice", Source(Secret(owner="alice")).load)

    def attack(payload: bytes) -> bytes:
        return (payload[:32] if signature == "old" else bytes(32)) + pickle.dumps(Attack())

    await forge(redis, policy, serializer, source="alice", target="alice", change=attack)
    RUN.clear()
    before = misses(Miss.SIGNATURE)
    mine = Source(Secret(owner="mine"))
    assert await policy.get_or_load("alice", mine.load) == Secret(owner="mine")
    assert (RUN, mine.loads) == ([], 1)
    assert misses(Miss.SIGNATURE) == before + 1
    assert pickle.loads(pickle.dumps(Attack())) == Secret(owner="attacker")
    assert RUN == ["attacker"], "the control: that pickle does run code"


async def test_replicas_with_another_key_share_nothing_and_break_nothing(
    another: OpenCache,
) -> None:
    """As while a signing key is replaced carelessly: loads, no errors, no wrong value."""
    one = await open_secrets(another, PickleSerializer([SIGNING_KEY]))
    other = await open_secrets(another, PickleSerializer([SIGNING_KEY[::-1]]))
    source = Source(Secret(owner="a"))
    for policy in (one, other, one, other):
        assert await policy.get_or_load("a", source.load) == Secret(owner="a")
    assert source.loads == 4
    both = await open_secrets(another, PickleSerializer([SIGNING_KEY, SIGNING_KEY[::-1]]))
    assert await both.get_or_load("a", source.load) == Secret(owner="a")
    assert source.loads == 4
