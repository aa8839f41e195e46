"""The cache can be switched off: nothing is kept, and what others keep is still invalidated."""

import pytest

from tests.conftest import Serve
from tests.notes import install_notes

PATH = "/test-notes/one"


@pytest.mark.parametrize("enabled", [True, False])
async def test_only_an_enabled_cache_answers(serve: Serve, enabled: bool) -> None:
    async with serve(install_notes, cache_enabled=enabled) as client:
        await client.put(PATH, json="lamp")
        answers = [await client.get(PATH) for _ in range(3)]
        health = (await client.get("/health/ready")).json()
    hits = ["hit" in answer.headers["cache-status"] for answer in answers]
    assert hits == [False, enabled, enabled]
    assert {answer.json() for answer in answers} == {"lamp"}
    assert health["status"] == "ok"


async def test_it_invalidates_what_other_processes_keep(serve: Serve) -> None:
    async with (
        serve(install_notes) as enabled,
        serve(install_notes, cache_enabled=False) as disabled,
    ):
        await enabled.put(PATH, json="lamp")
        assert [(await enabled.get(PATH)).json() for _ in range(2)] == ["lamp"] * 2
        await disabled.put(PATH, json="torch")
        answer = await enabled.get(PATH)
    assert "miss" in answer.headers["cache-status"]
