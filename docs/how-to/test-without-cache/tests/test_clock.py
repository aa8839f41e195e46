"""With the cache off each request is computed; with the cache on, the first one."""

from app.clock.install import install_clock
from tests.conftest import Serve


async def test_each_request_is_computed_without_the_cache(serve: Serve) -> None:
    async with serve(install_clock, cache_enabled=False) as client:
        for _ in range(2):
            await client.get("/computed")
        assert (await client.get("/computed")).json() == 3


async def test_control_one_is_computed_with_the_cache(serve: Serve) -> None:
    async with serve(install_clock) as client:
        for _ in range(2):
            await client.get("/computed")
        assert (await client.get("/computed")).json() == 1
