"""What is asked for most is loaded before anybody asks: the first page, and the items on it."""

from argparse import Namespace

import httpx2

from app.commands import refresh
from app.core.testing import counted_loads
from app.main import create_service
from app.settings import Settings
from devservers.waiting import until
from tests.conftest import Serve


async def first_items(client: httpx2.AsyncClient) -> list[str]:
    """Where the items of the first page are; nobody has read them yet."""
    await client.post("/items", json={"name": "lamp"})
    items = (await client.get("/items")).json()["items"]
    return [f"/items/{item['id']}" for item in items]


async def test_the_nightly_refresh_loads_them(
    client: httpx2.AsyncClient, settings: Settings
) -> None:
    paths = await first_items(client)
    async with create_service(settings).running() as command:
        assert await refresh.run(command, Namespace(every=12, again=True)) == 0
    for path in ("/items", *paths):
        assert "hit" in (await client.get(path)).headers["cache-status"]


async def test_the_start_loads_them_and_is_ready_meanwhile(
    client: httpx2.AsyncClient, serve: Serve
) -> None:
    paths = await first_items(client)
    loads = counted_loads("item")
    async with serve(cache_warm_up=True) as started:
        assert (await started.get("/health/ready")).status_code == 200
        await until(lambda: loads.count == len(paths))
        for path in paths:  # one may not be stored yet: then this waits for it
            assert (await started.get(path)).status_code == 200
        assert loads.count == len(paths)
