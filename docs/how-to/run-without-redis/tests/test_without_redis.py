"""Cached routes answer without Redis, and with the cache off."""

import pytest

from tests.conftest import Serve
from tests.notes import install_notes

NOWHERE = {"redis_url": "redis://127.0.0.1:1/0"}


@pytest.mark.parametrize("changes", [NOWHERE, {"cache_enabled": False}])
async def test_cached_routes_answer_all_the_same(serve: Serve, changes: dict[str, object]) -> None:
    async with serve(install_notes, **changes) as client:
        await client.put("/test-notes/one", json="lamp")
        for _ in range(3):
            answer = await client.get("/test-notes/one")
            assert answer.json() == "lamp"
            assert "hit" not in answer.headers["cache-status"]
