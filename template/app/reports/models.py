"""What goes in and out."""

from pydantic import BaseModel, Field


class ReportText(BaseModel):
    text: str = Field(min_length=1, max_length=10_000)


class Report(ReportText):
    author: str
    """The subject of the token it was written with."""
