"""Its data is there, and nowhere else."""

from functools import partial

from redis.asyncio import Redis

from app.counters.install import install_counters
from app.settings import Settings
from devservers.valkey import EmbeddedValkey
from tests.conftest import Serve


async def test_its_data_is_there_and_nowhere_else(
    serve: Serve, settings: Settings, valkey: EmbeddedValkey
) -> None:
    async with serve(partial(install_counters, url=valkey.url)) as client:
        assert [(await client.post("/visits")).json() for _ in range(2)] == [1, 2]
    found = []
    for url in (settings.redis_url.get_secret_value(), valkey.url):
        async with Redis.from_url(url) as redis:
            found.append(await redis.exists(f"{settings.service_name}:data:visits"))
    assert found == [0, 1]
