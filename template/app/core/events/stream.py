"""The stream of one publisher: its events of a while, in order.

`position.py` says how they are numbered. The publishers and the readers know what was confirmed and
what was announced; so they notice what a server has forgotten, and nobody else could.
"""

from collections.abc import Sequence
from time import time_ns
from typing import Any

import structlog

from app.core.events import keys
from app.core.events.position import NONE, EventId, Position, Record
from app.core.redis import RedisClient, Script

log = structlog.get_logger(__name__)

_NO_HISTORY = (
    "allow INFO: the server does not tell its replication id, so after a loss of events their "
    "number cannot be told"
)
_LOSS_TTL = 7 * 86_400
"""Seconds for which a subscriber without a position is taken for one whose position was lost."""

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


class Stream:
    """The stream of `publisher`."""

    def __init__(self, client: RedisClient, publisher: str) -> None:
        self.publisher = publisher
        self._client = client
        self._key = keys.stream(publisher)

    async def append(
        self,
        batch: Sequence[tuple[str, str]],
        *,
        sender: str,
        number: int,
        known: EventId,
        length: int,
    ) -> EventId:
        """Add events (name and data) at the end, all or none, and wake who reads them.

        The same `number` of the same `sender` is added once, however often it is tried. An empty
        batch finds out whether the server lets us do all this, and adds nothing.

        Args:
            known: the newest event that the sender knows to have been in the stream.
            length: how many events to keep, and a few more.

        Returns:
            The newest event of the stream.

        Raises:
            RedisError, OSError: it is not known whether they were added.
        """
        name = self.publisher
        names = (self._key, keys.history(name), keys.loss(name), keys.sent(name, sender))
        words = [word for event in batch for word in event]
        clock = time_ns() // 1000
        newest, tells_history = await _PUBLISH.run(
            self._client,
            names,
            (keys.channel(name), length, number, *known, clock, _LOSS_TTL, *words),
        )
        if not tells_history:
            log.warning("events.no_history", publisher=name, advice=_NO_HISTORY)
        return EventId.parse(newest)

    async def read(self, after: EventId, count: int) -> list[Record]:
        """The next events, `count` at most."""
        entries: Any = await self._client.xrange(self._key, f"({after}", "+", count)
        return [_record(*entry) for entry in entries]

    async def newest(self) -> Record | None:
        """The newest event."""
        entries: Any = await self._client.xrevrange(self._key, count=1)
        return _record(*entries[0]) if entries else None

    async def start(self) -> Position:
        """Where somebody begins of whom no position is known.

        After the newest event if it is new. If the server has forgotten something lately it may be
        the position: then after what was not forgotten.
        """
        loss: Any = await self._client.get(keys.loss(self.publisher))
        if loss:
            return Position((EventId.parse(loss),))
        newest = await self.newest()
        return Position((newest.id if newest else NONE,))


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
