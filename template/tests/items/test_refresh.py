"""What is asked for most is loaded before anybody asks."""

from argparse import Namespace

import httpx2

from app.commands import refresh
from app.main import create_service
from app.settings import Settings

NIGHTLY = Namespace(every=12, again=True)


async def test_the_nightly_refresh_loads_the_first_page_and_its_items(
    client: httpx2.AsyncClient, settings: Settings
) -> None:
    item = (await client.post("/items", json={"name": "lamp"})).json()
    async with create_service(settings).running() as command:
        assert await refresh.run(command, NIGHTLY) == 0
    for path in ("/items", f"/items/{item['id']}"):
        answer = await client.get(path)
        assert "hit" in answer.headers["cache-status"], path
        assert item["id"] in answer.text
