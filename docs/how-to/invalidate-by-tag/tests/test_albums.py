"""A change is seen wherever it shows, and nothing else is forgotten."""

from app.albums.install import install_albums
from tests.conftest import Serve


async def test_a_change_is_seen_wherever_it_shows(serve: Serve) -> None:
    async with serve(install_albums) as client:
        paths = ("/albums", "/albums/1", "/albums/2")
        for path in paths:
            await client.get(path)
        await client.put("/albums/1", json="new")
        answers = [await client.get(path) for path in paths]
    assert [answer.json() for answer in answers] == [["new", "two"], "new", "two"]
    assert ["hit" in answer.headers["cache-status"] for answer in answers] == [False, False, True]
