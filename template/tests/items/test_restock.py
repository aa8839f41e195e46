"""The critical section: nothing is lost, and a sleeper cannot overwrite what is newer."""

import asyncio
from uuid import UUID

import httpx

from app.items.repository import ItemRepository
from tests.conftest import Serve
from tests.items.test_items import create


async def test_of_many_restocks_at_once_none_is_lost(client: httpx.AsyncClient) -> None:
    item = await create(client, quantity=1)
    path = f"/items/{item['id']}"
    responses = await asyncio.gather(
        *(client.post(f"{path}/restock", json={"amount": 2}) for _ in range(8))
    )
    assert {response.status_code for response in responses} == {200}
    assert (await client.get(path)).json()["quantity"] == 1 + 8 * 2


async def test_restocking_what_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    nowhere = f"/items/{UUID(int=0)}/restock"
    assert (await client.post(nowhere, json={"amount": 1})).status_code == 404


async def test_a_holder_that_slept_through_its_ttl_is_refused(serve: Serve) -> None:
    async with serve() as client:
        item = await create(client, quantity=1)
        items: ItemRepository = client.app.state.items
        item_id = UUID(str(item["id"]))
        late, later = 1_000, 2_000
        assert await items.set_quantity(item_id, 7, fence=later) is not None
        assert await items.set_quantity(item_id, 3, fence=late) is None
        current = await items.get(item_id)
        assert current is not None
        assert current.quantity == 7
