"""The Redis client for your own commands, handed to a route per request.

    @router.get("/visits")
    async def visits(redis: RedisDependency) -> int: ...

Every request gets the same client: building one per request costs more than the command it runs.
"""

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.core.redis.clients import RedisClient


def get_redis(connection: HTTPConnection) -> RedisClient:
    client: RedisClient = connection.app.state.redis
    return client


RedisDependency = Annotated[RedisClient, Depends(get_redis)]
