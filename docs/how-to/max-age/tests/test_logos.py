"""What clients are told, and how they ask again."""

from app.logos.install import install_logos
from tests.conftest import Serve


async def test_clients_may_keep_it_or_ask_again(serve: Serve) -> None:
    async with serve(install_logos) as client:
        logo, banner = await client.get("/logos/ours"), await client.get("/banners/ours")
        known = {"if-none-match": banner.headers["etag"]}
        again = await client.get("/banners/ours", headers=known)
    assert "max-age=60" in logo.headers["cache-control"]
    assert "max-age=60" not in banner.headers["cache-control"]
    assert (again.status_code, again.content) == (304, b"")
