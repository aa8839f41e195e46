"""The warehouse, read from its own database."""

from fastapi import APIRouter
from sqlalchemy import func, select

from app.core.service import Service
from app.database.sqlite import create_database
from app.warehouse.table import PalletRow


def install_warehouse(service: Service, url: str) -> None:
    """Serve what is in the warehouse, whose database is at `url`."""
    warehouse = create_database(url, pool_size=2, pool_timeout=1, timeout=5)
    service.open(warehouse)
    service.transient(judge=warehouse.is_transient)
    service.check("warehouse", warehouse.ping)
    router = APIRouter()

    @router.get("/pallets/count")
    async def count_pallets() -> int:
        async with warehouse.reading() as session:
            return await session.scalar(select(func.count()).select_from(PalletRow)) or 0

    service.include(router)
