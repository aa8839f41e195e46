"""This route takes more than the others, and not everything."""

from app.uploads.install import PHOTO_BYTES, install_photos
from tests.conftest import Serve
from tests.notes import install_notes


async def test_this_route_takes_more_than_others(serve: Serve) -> None:
    photo = bytes(2_000_000)
    async with serve(install_photos, install_notes) as client:
        assert (await client.put("/photos/1", content=photo)).json() == len(photo)
        assert (await client.put("/test-notes/one", content=photo)).status_code == 413
        too_long = {"content-length": str(PHOTO_BYTES + 1)}
        answer = await client.put("/photos/1", content=b"", headers=too_long)
    assert answer.status_code == 413
