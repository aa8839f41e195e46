"""Misses and hits have the header."""

from tests.conftest import Serve
from tests.notes import install_notes


async def test_misses_and_hits_have_the_header(serve: Serve) -> None:
    async with serve(install_notes) as client:
        await client.put("/test-notes/one", json="lamp")
        answers = [await client.get("/test-notes/one") for _ in range(2)]
    assert ["hit" in answer.headers["cache-status"] for answer in answers] == [False, True]
    assert {answer.headers["x-teapot"] for answer in answers} == {"and stout"}
