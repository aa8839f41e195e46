"""What `Cache-Status` says."""

from tests.conftest import Serve
from tests.notes import install_notes


async def test_an_answer_says_where_it_comes_from(serve: Serve) -> None:
    async with serve(install_notes) as client:
        await client.put("/test-notes/one", json="lamp")
        first, second = [await client.get("/test-notes/one") for _ in range(2)]
        assert first.headers["cache-status"].endswith("fwd=miss")
        assert "; hit; ttl=" in second.headers["cache-status"]
