"""A new level shows once the ttl is over, and not before."""

from functools import partial

from app.core.testing import cache_clock, counted_loads
from app.tides.install import Gauge, install_tides
from devservers.waiting import until
from tests.conftest import Serve


async def test_a_new_level_shows_when_the_ttl_is_over(serve: Serve) -> None:
    gauge = Gauge()
    async with serve(partial(install_tides, gauge=gauge, ttl=0.05)) as client:
        await client.get("/tide")
        gauge.level = 2.0

        async def is_new() -> bool:
            return bool((await client.get("/tide")).json() == 2.0)

        await until(is_new)


async def test_until_then_the_old_one_is_served(serve: Serve) -> None:
    gauge = Gauge()
    async with serve(partial(install_tides, gauge=gauge)) as client:
        await client.get("/tide")
        gauge.level = 2.0
        assert (await client.get("/tide")).json() == 1.0


async def test_with_a_clock_the_real_ttl_is_over_at_once(serve: Serve) -> None:
    gauge = Gauge()
    async with serve(partial(install_tides, gauge=gauge)) as client:
        loads = counted_loads("tide")
        with cache_clock() as clock:
            await client.get("/tide")
            clock.advance(3000)  # not 3600: the ttl has a jitter of a tenth
            await client.get("/tide")
            assert loads.count == 1
            clock.advance(601)
            await client.get("/tide")
            assert loads.count == 2
