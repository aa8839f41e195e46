"""A pool that is used up says so, and serves those who wait in turn."""

import asyncio

from fastapi import FastAPI

from app.core.redis import RedisDependency
from app.settings import Settings
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.conftest import Serve


def add_slow_route(app: FastAPI, service: str) -> None:
    @app.get("/slow")
    async def slow(redis: RedisDependency, seconds: float) -> str:
        # Holds a connection for a while; the key never gets an element.
        await redis.execute_command("BLPOP", f"{service}:data:nothing", seconds)
        return "done"


async def test_exhaustion_is_a_clear_error_and_passes(
    serve: Serve, settings: Settings, valkey: EmbeddedValkey
) -> None:
    limits = {"redis_pool_size": 2, "redis_pool_timeout": 0.1, "redis_timeout": HANG}
    async with serve(redis_url=valkey.url, **limits) as client:
        add_slow_route(client.app, settings.service_name)
        # Those that have a connection keep it for far longer than the others wait.
        requests = [client.get("/slow?seconds=3") for _ in range(4)]
        responses = await asyncio.gather(*requests)
        assert sorted(response.status_code for response in responses) == [200, 200, 503, 503]
        assert all(r.headers["retry-after"] for r in responses if r.status_code == 503)
        assert (await client.get("/slow?seconds=0.01")).status_code == 200


async def test_nobody_starves(serve: Serve, settings: Settings, valkey: EmbeddedValkey) -> None:
    limits = {"redis_pool_size": 2, "redis_pool_timeout": HANG, "redis_timeout": HANG}
    async with serve(redis_url=valkey.url, **limits) as client:
        add_slow_route(client.app, settings.service_name)
        over = asyncio.Event()
        served = 0

        async def come_again_and_again() -> None:
            nonlocal served
            while not over.is_set():
                assert (await client.get("/slow?seconds=0.01")).status_code == 200
                served += 1

        regulars = [asyncio.create_task(come_again_and_again()) for _ in range(8)]
        await until(lambda: served >= 4)
        before = served
        newcomer = await client.get("/slow?seconds=0.01")
        meanwhile = served - before
        over.set()
        await asyncio.gather(*regulars)
        assert newcomer.status_code == 200
        # It waits for those who were there before it, and for nobody who comes later; the other
        # connection goes on while it is served.
        assert meanwhile <= 2 * len(regulars)
