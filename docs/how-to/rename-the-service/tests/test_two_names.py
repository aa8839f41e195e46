"""Services of two names share no entries, those of one name do."""

from tests.conftest import Serve
from tests.notes import install_notes

PATH = "/test-notes/one"


async def test_a_new_name_begins_with_a_cold_cache(serve: Serve) -> None:
    async with serve(install_notes) as orders, serve(install_notes) as again:
        await orders.put(PATH, json="lamp")
        await orders.get(PATH)
        assert "hit" in (await again.get(PATH)).headers["cache-status"]
        async with serve(install_notes, service_name="shop") as shop:
            await shop.put(PATH, json="lamp")
            assert "hit" not in (await shop.get(PATH)).headers["cache-status"]
