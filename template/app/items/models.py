"""Items, as clients see them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Quantity = Annotated[int, Field(ge=0, le=1_000_000)]


class ItemCreate(BaseModel):
    name: Name
    quantity: Quantity = 0


class ItemUpdate(BaseModel):
    name: Name
    version: int
    """The version that the client has seen. If it is no longer the current one, nothing changes."""


class Item(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    quantity: int
    version: int
    created_at: datetime
    updated_at: datetime


class ItemPage(BaseModel):
    items: list[Item]
    next_cursor: str | None
    """Where the next page begins; None on the last one."""
