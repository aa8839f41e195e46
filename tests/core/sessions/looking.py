"""What is in Redis, for whoever can read it or write to it."""

from typing import Any, cast

from redis.asyncio import Redis


async def all_keys(redis: Redis) -> list[bytes]:
    return cast("list[bytes]", await redis.keys())


async def session_keys(redis: Redis) -> list[bytes]:
    """Of those that are alive: what was given another id leaves a note for a while."""
    found = [key for key in await all_keys(redis) if b":id:" in key]
    return [key for key in found if await redis.hexists(key, "blob")]


async def clock(redis: Redis) -> float:
    """The server's, in seconds."""
    seconds, microseconds = await redis.time()
    return float(seconds + microseconds / 1_000_000)


async def fields(redis: Redis, key: bytes) -> dict[bytes, bytes]:
    return cast("dict[bytes, bytes]", await redis.hgetall(key))


async def write_fields(redis: Redis, key: bytes, values: dict[bytes, Any]) -> None:
    await redis.hset(key, mapping=cast("dict[Any, Any]", values))
