"""Reviews need their item, and go with it."""

from uuid import uuid4

from app.reviews.install import install_reviews
from tests.conftest import Serve


async def test_reviews_need_their_item_and_go_with_it(serve: Serve) -> None:
    async with serve(install_reviews) as client:
        assert (await client.post(f"/reviews/{uuid4()}?stars=5")).status_code == 404
        item = (await client.post("/items", json={"name": "lamp"})).json()["id"]
        for stars in (3, 5):
            assert (await client.post(f"/reviews/{item}?stars={stars}")).status_code == 204
        assert (await client.get(f"/reviews/{item}/count")).json() == 2
        await client.delete(f"/items/{item}")
        assert (await client.get(f"/reviews/{item}/count")).json() == 0
