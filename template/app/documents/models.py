"""What goes in and out."""

from pydantic import BaseModel, Field


class DocumentText(BaseModel):
    text: str = Field(min_length=1, max_length=10_000)


class Document(DocumentText):
    author: str
    """The subject of the token it was written with."""
