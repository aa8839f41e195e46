"""Photos, which may be larger than other bodies."""

from fastapi import APIRouter, Request

from app.core.service import Service

PHOTO_BYTES = 50_000_000


def install_photos(service: Service) -> None:
    """Take photos."""
    router = APIRouter()

    @router.put("/photos/{photo_id}", max_body_size=PHOTO_BYTES)
    async def upload_photo(photo_id: int, request: Request) -> int:
        size = 0
        async for chunk in request.stream():  # never all of it in memory
            size += len(chunk)  # write it somewhere
        return size

    service.include(router)
