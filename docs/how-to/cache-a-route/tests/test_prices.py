"""The second answer comes from the cache, and a change is seen at once."""

from app.prices.install import install_prices
from tests.conftest import Serve


async def test_a_price_is_cached_until_it_changes(serve: Serve) -> None:
    async with serve(install_prices) as client:
        for cents in (100, 120):
            await client.put("/prices/lamp", json={"cents": cents})
            first, second = [await client.get("/prices/lamp") for _ in range(2)]
            assert first.json()["cents"] == second.json()["cents"] == cents
            assert "miss" in first.headers["cache-status"]
            assert "hit" in second.headers["cache-status"]
