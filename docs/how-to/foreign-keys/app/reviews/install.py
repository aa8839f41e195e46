"""Reviews of items."""

from uuid import UUID

from fastapi import APIRouter, HTTPException
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from app.core.service import Service
from app.database.engine import Database
from app.reviews.table import ReviewRow


def install_reviews(service: Service) -> None:
    """Serve reviews."""
    database = service.find(Database)
    router = APIRouter(prefix="/reviews")

    @router.post("/{item_id}", status_code=204)
    async def review(item_id: UUID, stars: int) -> None:
        try:
            async with database.writing() as session:
                session.add(ReviewRow(item_id=item_id, stars=stars))
        except IntegrityError:
            raise HTTPException(404, "no such item") from None

    @router.get("/{item_id}/count")
    async def count_reviews(item_id: UUID) -> int:
        count = select(func.count()).where(ReviewRow.item_id == item_id)
        async with database.reading() as session:
            return await session.scalar(count) or 0

    service.include(router)
