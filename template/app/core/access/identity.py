"""Who asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified token says of its bearer, and the role that follows from it."""

    subject: str
    role: str | None
    """None: the policy has no role for these claims."""
    claims: Mapping[str, Any] = field(repr=False)
