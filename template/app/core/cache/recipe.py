"""What the engine needs to know about one value, and what it says about the one it got."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.core.cache import metrics
from app.core.cache.entry import Entry, Miss
from app.core.cache.keys import Address
from app.core.cache.options import PolicyOptions
from app.core.serializers import Codec


class Outcome(StrEnum):
    """How a read was answered."""

    NEAR = "near"
    HIT = "hit"
    STALE = "stale"
    MISS = "miss"
    STALE_ERROR = "stale_error"


class Kind:
    """What all values of one type under one policy share."""

    def __init__(
        self,
        policy: str,
        options: PolicyOptions,
        codec: Codec,
        serializer_format: int,
        *,
        is_negative: Callable[[Any], bool] = lambda value: value is None,
    ) -> None:
        """`is_negative` tells values that say "there is none" and live for `negative_ttl`."""
        self.policy = policy
        self.options = options
        self.codec = codec
        self.serializer_format = serializer_format
        self.is_negative = is_negative
        self._reads = {outcome: metrics.reads.labels(policy, outcome) for outcome in Outcome}
        self._misses = {reason: metrics.misses.labels(policy, reason) for reason in Miss}

        self._load_seconds = metrics.load_seconds.labels(policy)

    def count(self, outcome: Outcome) -> None:
        self._reads[outcome].inc()

    def count_miss(self, reason: Miss) -> None:
        self._misses[reason].inc()

    def observe_load(self, outcome: str, seconds: float) -> None:
        metrics.loads.labels(self.policy, outcome).inc()
        self._load_seconds.observe(seconds)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One value: where it is kept and how to make it."""

    kind: Kind
    address: Address
    load: Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class Seen:
    """What a read found: at most one of `entry` (usable, perhaps stale) and `reason` is set."""

    entry: Entry | None
    value: Any
    reason: Miss | None
    id: bytes
    """The id of what is stored, usable or not."""
    versions: dict[str, bytes | None] = field(default_factory=dict)
    online: bool = True
    near: bool = False
    """It came from this process's memory."""


@dataclass(slots=True)
class Loaded:
    """A value and where it came from; times in milliseconds since 1970."""

    value: Any
    outcome: Outcome
    created: int
    fresh_until: int
