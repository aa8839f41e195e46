"""Products, as the database keeps them."""

from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables import Base


class ProductRow(Base):
    __tablename__ = "products"
    __table_args__ = (CheckConstraint("stock >= 0", name="stock"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    stock: Mapped[int]
