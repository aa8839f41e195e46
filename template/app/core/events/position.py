"""Where an event stands in a stream, and how far somebody has come who reads it.

A Redis that is restarted, or that another one takes over for, may have forgotten the newest events,
even confirmed ones. What is published then belongs to a new life of the stream, so that a number
that is given out again is another event. Lives only grow: a reader finds what is new after where it
was, whatever was forgotten and whatever the clocks of the servers say.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

_LIVES = 8
"""How many lives a position remembers."""


class EventId(NamedTuple):
    """Also the id of the entry in Redis: `<life>-<number>`."""

    life: int
    """When it began: microseconds since 1970."""
    number: int
    """One more than that of the event before, and than any that its publisher knew of."""

    def __str__(self) -> str:
        return f"{self.life}-{self.number}"

    @classmethod
    def parse(cls, text: bytes) -> Self:
        life, _, number = text.partition(b"-")
        return cls(int(life), int(number))


NONE = EventId(0, 0)
"""Before the first event of all."""


@dataclass(frozen=True, slots=True)
class Record:
    """An event as it stands in the stream."""

    id: EventId
    name: str
    data: bytes
    published: float
    """Seconds since 1970."""
    after: EventId | None = None
    """The first event of a life says which was the last one before it."""
    known: EventId | None = None
    """An event of an earlier life that its publisher knew to be in the stream."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Events that are gone before they were read."""

    count: int | None
    """None: some, and nobody can say how many."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last event that was handled, of each of the latest lives; the current one first."""

    ends: tuple[EventId, ...] = (NONE,)

    @property
    def last(self) -> EventId:
        return self.ends[0]

    def includes(self, id_: EventId) -> bool:
        """Return whether the event was handled, or told to be lost."""
        return any(id_.life == end.life and id_.number <= end.number for end in self.ends)

    def rewind(self, to: EventId) -> "Position":
        """Return a position right before an event of a life that is older than ours."""
        return Position((EventId(to.life, to.number - 1), *self.ends[: _LIVES - 1]))

    def advance(self, record: Record, *, heard: EventId = NONE) -> tuple["Position", Lost | None]:
        """Return the position after a record, and what was lost between here and there.

        Args:
            record: the next one in the stream.
            heard: the newest event that was announced.
        """
        ends = {end.life: end.number for end in self.ends}
        counts = [self._cut_off(record)]
        if record.after and record.after != NONE:
            ends[record.after.life] = max(ends.get(record.after.life, 0), record.after.number)
        for known in (record.known, heard):
            if known and min(ends) <= known.life < record.id.life:
                counts.append(known.number - ends[known.life] if known.life in ends else None)
                ends[known.life] = max(ends.get(known.life, 0), known.number)
        ends.pop(record.id.life, None)
        others = sorted((EventId(*end) for end in ends.items()), reverse=True)
        position = Position((record.id, *others[: _LIVES - 1]))
        if None in counts:
            return position, Lost(None)
        total = sum(max(0, count) for count in counts if count)
        return position, Lost(total) if total else None

    def _cut_off(self, record: Record) -> int | None:
        """How many events lay between here and the record, and were cut off the stream."""
        before = record.after or EventId(record.id.life, record.id.number - 1)
        if before.life < self.last.life:
            return 0
        count = before.number - self.last.number
        return count if before.life == self.last.life or count > 0 else None

    @classmethod
    def parse(cls, text: bytes) -> Self:
        return cls(tuple(EventId.parse(word) for word in text.split()))

    def __str__(self) -> str:
        return " ".join(str(end) for end in self.ends)
