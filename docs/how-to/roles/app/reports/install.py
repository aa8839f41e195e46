"""Reports: editors and admins write and read them."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends

from app.core.cache import Cache
from app.core.identity import Identity, RequireRole, get_roles
from app.core.service import Service

Editor = Annotated[Identity, Depends(RequireRole("editor", "admin"))]


def install_reports(service: Service) -> None:
    """Serve reports; who may read them shares what is cached with others of the same roles."""
    cache = service.find(Cache)
    policy = cache.policy("reports", list[str], ttl=60)
    reports: list[str] = []
    router = APIRouter()

    @router.post("/reports", status_code=201)
    async def write(text: Annotated[str, Body(max_length=1000)], editor: Editor) -> str:
        reports.append(text)
        await cache.invalidate_tags("reports")
        return f"written by {editor.subject}"

    @router.get("/reports", dependencies=[Depends(RequireRole("editor", "admin"))])
    @policy.http(vary_by=get_roles, tags=["reports"])
    async def read() -> list[str]:
        return reports

    service.include(router)
