"""The back office, which only admins enter."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Depends

from app.core.identity import Identity, RequireRole
from app.core.service import Service

log = structlog.get_logger(__name__)


def install_backoffice(service: Service) -> None:
    """Serve what admins do."""
    router = APIRouter(prefix="/backoffice", dependencies=[Depends(RequireRole("admin"))])
    sales = 0

    @router.post("/sale", status_code=204)
    async def begin_sale(admin: Annotated[Identity, Depends(RequireRole("admin"))]) -> None:
        log.info("backoffice.sale_begun", by=admin.subject)
        nonlocal sales
        sales += 1

    @router.get("/sale")
    async def count_sales() -> int:
        return sales

    service.include(router)
