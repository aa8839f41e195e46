"""Three of four reads are hits."""

from app.core.cache import Cache
from app.hits.__main__ import hit_ratios
from tests.conftest import Client


async def test_three_of_four_reads_are_hits(client: Client) -> None:
    cache: Cache = client.app.state.cache
    policy = cache.policy("hits-recipe", str, ttl=60)

    async def load() -> str:
        return "value"

    for _ in range(4):
        await policy.get_or_load("key", load)
    assert hit_ratios((await client.get("/metrics")).text)["hits-recipe"] == 0.75
