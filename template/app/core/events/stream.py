"""The stream of one publisher: the events of a while, in order, each with a number.

The number is one more than that of the event before, so that a reader sees what is missing. The id
is Redis' own, the time of the server: it also grows when a server has lost its memory, and the
numbers start again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from app.core.events import keys
from app.core.redis import RedisClient, Script

# KEYS: stream, last batch of the sender
# ARGV: channel, length of the stream, number of the batch, then a name and data for each event
_PUBLISH = Script("""
if tonumber(redis.call('GET', KEYS[2]) or '0') >= tonumber(ARGV[3]) then
  return 0 -- sent before: only the reply was lost
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local number = last and tonumber(last[2][2]) or 0
for i = 4, #ARGV, 2 do
  number = number + 1
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*',
    'number', string.format('%.0f', number), 'name', ARGV[i], 'data', ARGV[i + 1])
end
redis.call('SET', KEYS[2], ARGV[3], 'EX', 86400)
redis.call('PUBLISH', ARGV[1], '')
return 1
""")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a stream, right after an event: its id in two parts, and its number."""

    milliseconds: int
    sequence: int
    number: int

    @property
    def id(self) -> str:
        return f"{self.milliseconds}-{self.sequence}"

    @classmethod
    def of(cls, id_: bytes, number: int) -> Self:
        milliseconds, _, sequence = id_.partition(b"-")
        return cls(int(milliseconds), int(sequence), number)

    @classmethod
    def parse(cls, text: bytes) -> Self:
        id_, _, number = text.partition(b" ")
        return cls.of(id_, int(number))

    def __str__(self) -> str:
        return f"{self.id} {self.number}"


START = Position(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Record:
    """An event as it stands in the stream."""

    position: Position
    name: str
    data: bytes


class Stream:
    """The stream of `publisher`."""

    def __init__(self, client: RedisClient, publisher: str) -> None:
        self.publisher = publisher
        self._client = client
        self._key = keys.stream(publisher)

    async def append(
        self, batch: Sequence[tuple[str, str]], *, sender: str, number: int, length: int
    ) -> None:
        """Add events (name and data) at the end, all or none, and wake who reads them.

        The same `number` of the same `sender` is added once, however often it is tried.
        Keeps `length` events, and a few more.

        Raises:
            RedisError, OSError: it is not known whether they were added.
        """
        words = [word for event in batch for word in event]
        await _PUBLISH.run(
            self._client,
            (self._key, keys.sent(self.publisher, sender)),
            (keys.channel(self.publisher), length, number, *words),
        )

    async def read(self, after: Position, count: int) -> list[Record]:
        """The next events, `count` at most."""
        return _records(await self._client.xrange(self._key, f"({after.id}", "+", count))

    async def end(self) -> Position:
        """The place after the newest event."""
        newest = _records(await self._client.xrevrange(self._key, count=1))
        return newest[0].position if newest else START


def _records(entries: Any) -> list[Record]:
    return [
        Record(Position.of(id_, int(fields[b"number"])), fields[b"name"].decode(), fields[b"data"])
        for id_, fields in entries
    ]
