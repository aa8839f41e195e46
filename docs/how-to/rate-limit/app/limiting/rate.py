"""A limit of requests for each address, on the Redis of the service."""

import time

from fastapi import HTTPException, Request
from limits import parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.exceptions import RedisError


class RateLimit:
    """A dependency: 429 for an address that asks more often than "5/minute"."""

    def __init__(self, redis_url: str, name: str, rate: str) -> None:
        storage = RedisStorage(f"async+{redis_url}", implementation="redispy", key_prefix=name)
        self._limiter = FixedWindowRateLimiter(storage)
        self._rate = parse(rate)

    async def __call__(self, request: Request) -> None:
        address = request.client.host if request.client else "unknown"
        try:
            if await self._limiter.hit(self._rate, address):
                return
            reset_at = (await self._limiter.get_window_stats(self._rate, address)).reset_time
        except (RedisError, OSError):
            return
        wait = max(1, round(reset_at - time.time()))
        raise HTTPException(429, "too many requests", {"Retry-After": str(wait)})
