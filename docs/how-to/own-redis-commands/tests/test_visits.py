"""It counts, and says so when Redis is away."""

from app.visits.install import install_visits
from tests.conftest import Serve


async def test_it_counts_or_is_unavailable(serve: Serve) -> None:
    async with serve(install_visits) as client:
        assert [(await client.post("/page-visits")).json() for _ in range(2)] == [1, 2]
    async with serve(install_visits, redis_url="redis://127.0.0.1:1/0") as client:
        answer = await client.post("/page-visits")
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
