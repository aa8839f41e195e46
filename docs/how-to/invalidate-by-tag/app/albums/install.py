"""Albums: a change shows on their own page and in the list."""

from fastapi import APIRouter, Body

from app.core.cache import Cache
from app.core.service import Service


def install_albums(service: Service) -> None:
    """Serve albums."""
    cache = service.find(Cache)
    names = {1: "one", 2: "two"}
    album = cache.policy("album", str, ttl=600)
    albums = cache.policy("albums", list[str], ttl=600)
    router = APIRouter(prefix="/albums")

    @router.get("/{album_id}")
    @album.http(public=True, tags=lambda album_id: [f"album:{album_id}"])
    async def read_album(album_id: int) -> str:
        return names[album_id]

    @router.get("")
    @albums.http(public=True, tags=["albums"])
    async def list_albums() -> list[str]:
        return list(names.values())

    @router.put("/{album_id}", status_code=204)
    async def rename_album(album_id: int, name: str = Body()) -> None:
        names[album_id] = name
        await cache.invalidate_tags(f"album:{album_id}", "albums")

    service.include(router)
