from typing import Annotated

from pydantic import Field

# This service's own settings: add yours here.
greeting: Annotated[str, Field(min_length=1)] = "hello"
"""What people are greeted with."""
