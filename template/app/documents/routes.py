"""Documents, guarded by Redis alone.

No route asks what its caller may do. `RoleRedis` logs in to Redis as the caller's role, and Redis
denies the rest, whatever the code here tries: `access.toml` says who may do what.
"""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path

from app.core.access import BearerDependency, RoleRedis
from app.documents.models import Document, DocumentText

Name = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,64}$")]
_DENIED: dict[int | str, dict[str, Any]] = {
    401: {"description": "No valid token"},
    403: {"description": "Your role may not"},
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "No such document"}}


def create_documents_router(service: str) -> APIRouter:
    """Keeps all documents in one hash, so that their names are known without SCAN."""
    router = APIRouter(prefix="/documents", tags=["documents"], responses=_DENIED)
    key = f"{service}:documents"

    @router.get("")
    async def list_documents(redis: RoleRedis) -> list[str]:
        names: list[bytes] = await redis.execute_command("HKEYS", key)
        return sorted(name.decode() for name in names)

    @router.get("/{name}", responses=_UNKNOWN)
    async def read_document(name: Name, redis: RoleRedis) -> Document:
        found = await redis.hget(key, name)
        if found is None:
            raise HTTPException(404, "no such document")
        return Document.model_validate_json(found)

    @router.put("/{name}")
    async def write_document(
        name: Name, new: DocumentText, redis: RoleRedis, bearer: BearerDependency
    ) -> Document:
        # An issuer may sign what is no text: JSON has halves of characters.
        author = bearer.subject.encode(errors="backslashreplace").decode()
        document = Document(text=new.text, author=author)
        await redis.hset(key, name, document.model_dump_json())
        return document

    @router.delete("/{name}", status_code=204, responses=_UNKNOWN)
    async def delete_document(name: Name, redis: RoleRedis) -> None:
        if not await redis.hdel(key, name):
            raise HTTPException(404, "no such document")

    return router
