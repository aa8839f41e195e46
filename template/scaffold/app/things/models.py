"""Things, as clients see them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

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


class ThingCreate(BaseModel):
    name: Name


class ThingUpdate(BaseModel):
    name: Name
    version: Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]
    """The version that the client has seen. If it is no longer the current one, nothing changes."""


class Thing(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    version: int
    created_at: datetime
    updated_at: datetime


class ThingPage(BaseModel):
    things: list[Thing]
    next_cursor: UUID | None
    """Where the next page begins; None on the last one."""
