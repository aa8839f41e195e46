"""A lock whose key is deleted is free, and its holder is told."""

import asyncio

import pytest
from redis.asyncio import Redis

from app.core.locks import LockLost, Locks
from app.settings import Settings
from tests.conftest import Client


async def test_a_lock_can_be_freed_by_hand(client: Client, settings: Settings) -> None:
    locks: Locks = client.app.state.locks
    redis = Redis.from_url(settings.redis_url.get_secret_value())
    pattern = f"{settings.service_name}:lock:*:held:invoice:42"

    async def free() -> None:
        async with locks.hold("invoice:42", ttl=2, timeout=5):
            keys = [key async for key in redis.scan_iter(match=pattern)]
            assert len(keys) == 1
            assert await redis.pttl(keys[0]) > 0
            await redis.delete(*keys)
            await asyncio.Event().wait()  # until it is cancelled

    with pytest.raises(LockLost):
        await free()
    async with locks.hold("invoice:42", ttl=2, timeout=5):
        pass
    await redis.aclose()
