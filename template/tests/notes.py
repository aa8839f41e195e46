"""A feature as small as one can be, for tests of what every feature gets from the service.

The example is the team's own, and may be gone.
"""

from typing import Annotated

from fastapi import APIRouter, Body, HTTPException

from app.core.cache import Cache
from app.core.service import Service


def install_notes(service: Service) -> None:
    """Install notes, which are kept in the memory of the process, and cached."""
    cache = service.find(Cache)
    policy = cache.policy("note", str, ttl=60, stale_while_revalidate=30, stale_if_error=3600)
    router = APIRouter(prefix="/test-notes")
    notes: dict[str, str] = {}

    @router.get("/{name}")
    @policy.http(public=True, tags=lambda name: [f"note:{name}"])
    async def read(name: str) -> str:
        if name not in notes:
            raise HTTPException(404, "no such note")
        return notes[name]

    @router.put("/{name}", status_code=204)
    async def write(name: str, text: Annotated[str, Body()]) -> None:
        notes[name] = text
        await cache.invalidate_tags(f"note:{name}")

    service.include(router)
