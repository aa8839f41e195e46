"""Orders, as the database keeps them."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables import Base


class OrderRow(Base):
    __tablename__ = "orders"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.id"), index=True)
    quantity: Mapped[int]
    placed_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
