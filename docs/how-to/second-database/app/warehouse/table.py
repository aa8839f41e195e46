"""What the warehouse keeps, in a database of its own."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class WarehouseBase(DeclarativeBase):
    """Not the `Base` of this service: nothing here migrates these tables."""


class PalletRow(WarehouseBase):
    __tablename__ = "pallets"

    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[str]
