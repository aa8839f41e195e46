"""Nobody gets the basket of somebody else."""

from app.baskets.install import install_baskets
from tests.conftest import Serve


async def test_everybody_has_entries_of_their_own(serve: Serve) -> None:
    async with serve(install_baskets) as client:
        for status in ("miss", "hit"):
            for user, item in (("ann", "lamp"), ("bob", "rug")):
                answer = await client.get("/basket", headers={"x-user": user})
                assert answer.json() == {"items": [item]}
                assert status in answer.headers["cache-status"]
        assert (await client.get("/basket")).status_code == 422
