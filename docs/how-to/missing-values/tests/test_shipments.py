"""A 404 is kept until there is one."""

from app.shipments.install import install_shipments
from tests.conftest import Serve


async def test_a_404_is_kept_until_there_is_one(serve: Serve) -> None:
    async with serve(install_shipments) as client:
        first, second = [await client.get("/shipments/1") for _ in range(2)]
        assert (first.status_code, second.status_code) == (404, 404)
        assert "hit" not in first.headers["cache-status"]
        assert "hit" in second.headers["cache-status"]
        await client.put("/shipments/1")
        assert (await client.get("/shipments/1")).json() == "1"
