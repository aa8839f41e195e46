"""The stream of one publisher: its events of a while, in order, and offsets in it.

A Redis that is restarted, or replaced by a replica, may have forgotten the newest events, even
confirmed ones. What is published then belongs to a new life of the stream, so an id that is given
out again is never taken for the event that had it before. Lives only grow: a reader finds what is
new after its offset, whatever was forgotten and whatever the clocks of the servers say.

Publishers know what was confirmed, and readers what was announced: that is how a loss is noticed.
The server itself cannot know what it has forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import time_ns
from typing import Any, NamedTuple, Self

import structlog

from app.core.events.event import EventsLost
from app.core.redis import RedisClient, Script

log = structlog.get_logger(__name__)

_NO_HISTORY = (
    "allow INFO: the server does not tell its replication id, so after a loss of events their "
    "number cannot be told"
)
_LOSS_TTL = 7 * 86_400
"""Seconds for which a subscriber without an offset is taken for one whose offset was lost."""
_MAX_LIVES = 8
"""How many lives of a stream an offset remembers."""

# KEYS: stream, history, loss, last batch of the sender
# ARGV: channel, length of the stream, number of the batch, life and number of the newest event that
#   the sender knows of, its clock in microseconds, seconds to remember a loss,
#   then a name and data for each event
# Answers with the id of the newest event, and whether the server tells its replication id.
#
# A life ends when the server's replication id is another one (a restart, a replica that took over)
# or when the sender knows of an event that is not here. Where INFO is not allowed, each batch is a
# life: then nobody can say how many were lost, but still that some were.
_PUBLISH = Script("""
local function parse(id)
  local life, number = string.match(id, '(%d+)-(%d+)')
  return {life = tonumber(life), number = tonumber(number)}
end
local function before(a, b)
  return a.life < b.life or (a.life == b.life and a.number < b.number)
end
local function text(id)
  return string.format('%.0f-%.0f', id.life, id.number)
end

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
last = parse(last and last[1] or '0-0')
if tonumber(redis.call('GET', KEYS[4]) or '0') >= tonumber(ARGV[3]) then
  return {text(last), 1} -- sent before: only the reply was lost
end
local info = redis.pcall('INFO', 'replication')
local history = type(info) == 'string' and string.match(info, 'master_replid:(%x+)')
if #ARGV == 7 then -- a rehearsal
  redis.call('XADD', KEYS[4], 'NOMKSTREAM', '*', 'name', '')
  redis.call('SET', KEYS[4], ARGV[3], 'EX', 86400)
  redis.call('PUBLISH', ARGV[1], text(last))
  return {text(last), history and 1 or 0}
end

local known = {life = tonumber(ARGV[4]), number = tonumber(ARGV[5])}
local new, origin, marks = {life = last.life, number = last.number}, last, {}

local function begin_life()
  new.life = math.max(tonumber(ARGV[6]), last.life + 1, known.life + 1)
  new.number = math.max(last.number, known.number)
  marks = {'after', text(last)}
end
local function add(name, data)
  new.number = new.number + 1
  return redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], text(new),
    'name', name, 'data', data, 'at', ARGV[6], unpack(marks))
end

local is_same = history and last.life > 0 and redis.call('GET', KEYS[2]) == history
if not is_same or before(last, known) then
  redis.call('SET', KEYS[2], history or '')
  begin_life()
elseif known.life < last.life then
  local birth = text({life = last.life, number = 0})
  local first = redis.call('XRANGE', KEYS[1], birth, '+', 'COUNT', 1)[1]
  origin = first[2][7] == 'after' and parse(first[2][8]) or known
end
if known.life > 0 and known.life < new.life then
  marks[#marks + 1] = 'known'
  marks[#marks + 1] = text(known)
  if before(origin, known) then
    redis.call('SET', KEYS[3], text(origin), 'EX', ARGV[7])
  end
end
for i = 8, #ARGV, 2 do
  local added = add(ARGV[i], ARGV[i + 1])
  if type(added) == 'table' and string.find(added.err, 'equal or smaller') then
    begin_life() -- the newest event was deleted by hand
    added = add(ARGV[i], ARGV[i + 1])
  end
  if type(added) == 'table' then return added end
  marks = {}
end
redis.call('SET', KEYS[4], ARGV[3], 'EX', 86400)
redis.call('PUBLISH', ARGV[1], text(new))
return {text(new), 1}
""")


def key_of(publisher: str, name: str, *, service: str | None = None) -> str:
    """Return the key of what `service` keeps about the stream of `publisher`.

    A hash tag keeps all that belongs to one publisher on the same node of a cluster.
    """
    return f"{service or publisher}:events:{{{publisher}}}:{name}"


def channel_of(publisher: str) -> str:
    """Return the channel on which new events of `publisher` are announced."""
    return f"{publisher}:events"


class EventId(NamedTuple):
    """The id of an event: in Redis, that of its entry in the stream, `<life>-<number>`."""

    life: int
    """When this life of the stream began: microseconds since 1970."""
    number: int
    """One more than that of the event before, and of any that its publisher knew of."""

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
    """An event as it is in the stream."""

    id: EventId
    name: str
    data: bytes
    published: float
    """Seconds since 1970."""
    after: EventId | None = None
    """In the first event of a life: the last event before it."""
    known: EventId | None = None
    """An event of an earlier life that its publisher knew to be in the stream."""


@dataclass(frozen=True, slots=True)
class Offset:
    """How far a subscriber has come: the last event that it has handled."""

    ends: tuple[EventId, ...] = (NONE,)
    """The last event handled of each of the latest lives; that of the current one comes first."""

    @property
    def last(self) -> EventId:
        return self.ends[0]

    def includes(self, id_: EventId) -> bool:
        """Return whether the event was handled, or reported as lost."""
        return any(id_.life == end.life and id_.number <= end.number for end in self.ends)

    def rewind(self, to: EventId) -> "Offset":
        """Return an offset right before an event of a life that is older than ours."""
        return Offset((EventId(to.life, to.number - 1), *self.ends[: _MAX_LIVES - 1]))

    def advance(
        self, record: Record, *, announced: EventId = NONE
    ) -> tuple["Offset", EventsLost | None]:
        """Return the offset after the next record, and what was lost between here and there.

        Args:
            record: the next one in the stream.
            announced: the newest event that was announced.
        """
        ends = {end.life: end.number for end in self.ends}
        counts = [self._trimmed(record)]
        if record.after and record.after != NONE:
            ends[record.after.life] = max(ends.get(record.after.life, 0), record.after.number)
        for known in (record.known, announced):
            if known and min(ends) <= known.life < record.id.life:
                counts.append(known.number - ends[known.life] if known.life in ends else None)
                ends[known.life] = max(ends.get(known.life, 0), known.number)
        ends.pop(record.id.life, None)
        others = sorted((EventId(*end) for end in ends.items()), reverse=True)
        offset = Offset((record.id, *others[: _MAX_LIVES - 1]))
        if None in counts:
            return offset, EventsLost(count=None)
        total = sum(max(0, count) for count in counts if count)
        return offset, EventsLost(count=total) if total else None

    def _trimmed(self, record: Record) -> int | None:
        """Return how many events between here and the record were trimmed; None if unknown."""
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


class Stream:
    """The events of `publisher`, in Redis."""

    def __init__(self, client: RedisClient, publisher: str) -> None:
        self.publisher = publisher
        self.channel = channel_of(publisher)
        self._client = client
        self._key = key_of(publisher, "stream")
        # The server's replication id, as it was when the current life began.
        self._history_key = key_of(publisher, "history")
        # After which event the server has lately forgotten some. It ends as the name of the stream,
        # so whoever may read the stream may read it, too.
        self._loss_key = key_of(publisher, "loss:stream")

    async def append(
        self,
        batch: Sequence[tuple[str, str]],
        *,
        sender: str,
        number: int,
        known: EventId,
        max_length: int,
    ) -> EventId:
        """Append events, all or none, wake their readers, and return the newest id of the stream.

        An empty batch appends nothing: it finds out whether the server permits all of this.

        Args:
            batch: names and data.
            sender: names this process.
            number: of the batch. One number of one sender is appended once, however often it is
                tried.
            known: the newest event that the sender knows to have been in the stream.
            max_length: how many events to keep; Redis keeps a few more.

        Raises:
            RedisError, OSError: it is not known whether they were appended.
        """
        sent_key = key_of(self.publisher, f"sent:{sender}")
        words = [word for event in batch for word in event]
        now = time_ns() // 1000
        newest, tells_history = await _PUBLISH.run(
            self._client,
            (self._key, self._history_key, self._loss_key, sent_key),
            (self.channel, max_length, number, *known, now, _LOSS_TTL, *words),
        )
        if not tells_history:
            log.warning("events.no_history", publisher=self.publisher, advice=_NO_HISTORY)
        return EventId.parse(newest)

    async def read(self, after: EventId, count: int) -> list[Record]:
        """Read the next events, `count` at most.

        Raises:
            RedisError, OSError: Redis does not answer.
        """
        entries: Any = await self._client.xrange(self._key, f"({after}", "+", count)
        return [_record(*entry) for entry in entries]

    async def newest(self) -> Record | None:
        """Read the newest event. Raises RedisError or OSError if Redis does not answer."""
        entries: Any = await self._client.xrevrange(self._key, count=1)
        return _record(*entries[0]) if entries else None

    async def initial_offset(self) -> Offset:
        """Return where a subscriber begins that has no offset in Redis.

        A new one begins after the newest event. But if the server has lately forgotten events, it
        may have forgotten the offset as well: then after the events that it still has.
        """
        loss: Any = await self._client.get(self._loss_key)
        if loss:
            return Offset((EventId.parse(loss),))
        newest = await self.newest()
        return Offset((newest.id if newest else NONE,))


def _record(id_: bytes, fields: dict[bytes, bytes]) -> Record:
    after, known, at = fields.get(b"after"), fields.get(b"known"), fields.get(b"at", b"")
    return Record(
        EventId.parse(id_),
        name=fields.get(b"name", b"").decode(errors="replace"),
        data=fields.get(b"data", b""),
        published=int(at) / 1_000_000 if at.isdigit() else 0,
        after=_parsed(after),
        known=_parsed(known),
    )


def _parsed(text: bytes | None) -> EventId | None:
    try:
        return EventId.parse(text) if text else None
    except ValueError:  # written by hand
        return None
