"""Items, as clients see them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

MAX_QUANTITY = 1_000_000
# Not only of blanks, and without the character NUL, which PostgreSQL has no place for.
Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]*[^\x00\s][^\x00]*$",
    ),
]


def _refuse_look_alikes(value: object) -> object:
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


# What the OpenAPI document calls an integer: 3 and 3.0. Pydantic alone takes true and "3" as well.
# It comes last: limits after it would be missing from the document.
JSON_INTEGER = BeforeValidator(_refuse_look_alikes)
Quantity = Annotated[int, Field(ge=0, le=MAX_QUANTITY), JSON_INTEGER]
Version = Annotated[int, Field(ge=1, le=2**31 - 1), JSON_INTEGER]


class ItemCreate(BaseModel):
    name: Name
    quantity: Quantity = 0


class ItemUpdate(BaseModel):
    name: Name
    version: Version
    """The version that the client has seen. If it is no longer the current one, nothing changes."""


class Item(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    quantity: int
    version: int
    created_at: datetime
    updated_at: datetime


class Stock(BaseModel):
    """All items, counted."""

    items: int
    quantity: int


class ItemPage(BaseModel):
    items: list[Item]
    next_cursor: str | None
    """Where the next page begins; None on the last one."""
