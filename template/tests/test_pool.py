"""A pool that is used up says so, and serves those who wait in turn."""

import asyncio
from time import monotonic

from fastapi import FastAPI

from app.core.redis import RedisDependency
from app.settings import Settings
from devservers.valkey import EmbeddedValkey
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
    limits = {"redis_pool_size": 2, "redis_pool_timeout": 0.1, "redis_timeout": 5}
    async with serve(redis_url=valkey.url, **limits) as client:
        add_slow_route(client.app, settings.service_name)
        requests = [client.get("/slow?seconds=0.5") for _ in range(4)]
        responses = await asyncio.gather(*requests)
        assert sorted(response.status_code for response in responses) == [200, 200, 503, 503]
        assert all(r.headers["retry-after"] for r in responses if r.status_code == 503)
        assert (await client.get("/slow?seconds=0.01")).status_code == 200


async def test_nobody_starves(serve: Serve, settings: Settings, valkey: EmbeddedValkey) -> None:
    limits = {"redis_pool_size": 2, "redis_pool_timeout": 5, "redis_timeout": 5}
    async with serve(redis_url=valkey.url, **limits) as client:
        add_slow_route(client.app, settings.service_name)
        over = asyncio.Event()

        async def come_again_and_again() -> None:
            while not over.is_set():
                assert (await client.get("/slow?seconds=0.01")).status_code == 200

        regulars = [asyncio.create_task(come_again_and_again()) for _ in range(8)]
        await asyncio.sleep(0.3)
        started = monotonic()
        newcomer = await client.get("/slow?seconds=0.01")
        waited = monotonic() - started
        over.set()
        await asyncio.gather(*regulars)
        assert newcomer.status_code == 200
        # It waits for those who were there before it, four rounds of some 0.1 s (the server looks
        # for timeouts ten times a second), and for nobody who comes later.
        assert waited < 2
