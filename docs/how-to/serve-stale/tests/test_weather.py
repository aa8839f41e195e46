"""While the source is away, the old weather is served."""

from functools import partial

from app.weather.install import Source, install_weather
from devservers.waiting import until
from tests.conftest import Serve


async def test_the_old_weather_is_served_while_the_source_is_away(serve: Serve) -> None:
    source = Source()
    async with serve(partial(install_weather, source=source, ttl=0.01)) as client:
        assert (await client.get("/weather")).json() == "sunny"
        source.weather = None

        async def is_stale() -> bool:
            answer = await client.get("/weather")
            assert (answer.status_code, answer.json()) == (200, "sunny")
            return "stale-if-error" in answer.headers["cache-status"]

        await until(is_stale)


async def test_an_old_one_is_served_at_once_and_computed_anew(serve: Serve) -> None:
    source = Source()
    async with serve(partial(install_weather, source=source, ttl=0.01)) as client:
        await client.get("/weather")
        source.weather = "rainy"

        async def is_new() -> bool:
            return bool((await client.get("/weather")).json() == "rainy")

        await until(is_new)
