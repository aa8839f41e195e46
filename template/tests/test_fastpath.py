"""Fast paths can be switched off, and deleted: the answers are the same."""

import httpx2

from app.core.implementations import Implementations, current
from tests.conftest import Serve
from tests.notes import install_notes

PATH = "/test-notes/one"


def told(response: httpx2.Response) -> tuple[int, str, dict[str, str]]:
    """What does not depend on the moment."""
    headers = dict(response.headers)
    headers["cache-status"] = headers.get("cache-status", "").split("; ttl")[0]
    for name in ("age", "x-request-id"):
        headers.pop(name, None)
    return response.status_code, response.text, headers


async def answers(serve: Serve, *, fastpath: bool) -> list[tuple[int, str, dict[str, str]]]:
    async with serve(install_notes, fastpath=fastpath) as client:
        await client.put(PATH, json="lamp")  # nothing is kept of what was there before
        read = [await client.get(PATH) for _ in range(3)]
        etag = {"if-none-match": read[0].headers["etag"]}
        not_modified = await client.get(PATH, headers=etag)
        missing = await client.get(f"/test-notes/none-{fastpath}")
    return [told(response) for response in (*read, not_modified, missing)]


async def test_the_answers_are_the_same_with_fast_paths_and_without(serve: Serve) -> None:
    fast = await answers(serve, fastpath=True)
    ordinary = await answers(serve, fastpath=False)
    assert [status for status, _, _ in fast] == [200, 200, 200, 304, 404]
    assert fast == ordinary


async def test_off_means_all_of_them(serve: Serve) -> None:
    async with serve(fastpath=False):
        chosen, ordinary = current(), Implementations()
        assert chosen.response_sender is ordinary.response_sender
        assert type(chosen.prerouter) is type(ordinary.prerouter)
        assert type(chosen.connections) is type(ordinary.connections)
