"""All commands that the cache sends to Redis.

Each method takes one round trip (in a cluster, one for each step), and none while the breaker is
open.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from secrets import token_bytes, token_hex
from typing import Any, TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import ClusterError, RedisClusterException, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.cache.backplane import Announcer
from app.core.cache.entry import VERSION_SIZE
from app.core.cache.keys import EntryKeys
from app.core.cache.outage import Breaker, CacheUnavailable
from app.core.cache.results import ReadResult
from app.core.cache.scripts import (
    KEEP_VERSION,
    LEASE,
    RELEASE,
    RENEW,
    STORE,
    THROTTLED,
    TIME,
    VERSION,
)
from app.core.cache.server_watch import ClockWatch
from app.core.redis import (
    BatchReader,
    Command,
    CommandBatcher,
    PoolTimeout,
    RedisClient,
    is_refusal,
    is_unreadable,
)

T = TypeVar("T")

_OUTAGE = (RedisConnectionError, RedisTimeoutError, ClusterError, RedisClusterException, OSError)
_VERSION_MARGIN_SECONDS = 5.0
"""A version lives so much longer than what is stored under it, and than a load that has read it."""
_MAX_KEYS = 2_000
"""So many keys are deleted by one command, in a millisecond or two."""
_UNHEALTHY_FROM = 3
"""After so many attempts in a row that Redis refused, the cache does not count as healthy."""


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """One entry that somebody wants to fill, and the token of the lease for it."""

    keys: EntryKeys
    read: ReadResult
    """What is stored now."""
    keep_always: bool = False
    """It is to be kept, also where anybody can make up the key."""
    token: str = field(default_factory=lambda: token_hex(8))


class LeaseOutcome(Enum):
    """What asking for a lease came to."""

    GRANTED = 1
    CHANGED = 2
    """The stored entry is no longer the one the caller saw: read again."""
    HELD = 3
    THROTTLED = 4


@dataclass(slots=True)
class LeaseReply:
    outcome: LeaseOutcome
    wait: float = 0
    """Seconds until the lease that stands in the way runs out."""
    holder: bytes = b""
    """What that lease is held by."""


class CacheStore:
    """One client, one reader, one breaker."""

    def __init__(
        self, client: RedisClient, reader: BatchReader, breaker: Breaker, announcer: Announcer
    ) -> None:
        self._announcer = announcer
        self._unstored = 0
        self._unstored_why = ""
        self._batcher = CommandBatcher(client)
        self._client = client
        self._reader = reader
        self._breaker = breaker
        self.clock = ClockWatch()

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return values by key, in a round trip shared with the other reads of this moment."""
        if self._breaker.is_open:
            raise CacheUnavailable("the breaker is open", outage=True)
        try:
            values = await self._reader.read(keys)
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error
        self._check_breaker()  # what made somebody open it meanwhile may be about these values
        self._breaker.record_success()
        return values

    async def lease_many(
        self,
        requests: Sequence[LeaseRequest],
        missing: Sequence[str],
        *,
        ttl: float,
        longest: float,
        take: bool = False,
    ) -> tuple[list[LeaseReply], dict[str, bytes]]:
        """Ask for leases of `ttl` seconds on entries of the same tags, and create missing versions.

        Return a reply for each, and the missing versions by name: the new ones, or those that
        another process created first. A new version of a tag is there for as long as a load may
        take (`longest`, in seconds), until something is stored under it. With `take` leases are
        granted whoever has them, and whatever is stored.

        Raises:
            CacheUnavailable: Redis did not do all of it.
        """
        leases: list[Command] = [
            ("SET", request.keys.lease, request.token, "PX", _ms(ttl))
            if take
            else LEASE.call(
                (request.keys.value, request.keys.lease),
                (request.token, _ms(ttl), request.read.id),
            )
            for request in requests
        ]
        first = requests[0].keys
        # That of the policy stays, or all its entries would expire with it: there are few of them.
        policy, lifetime = first.versions[0], _ms(longest + _VERSION_MARGIN_SECONDS)
        # In full: it is short, and in a cluster there is often a node that does not know it yet.
        created = [
            VERSION.in_full((name,), (token_bytes(VERSION_SIZE), 0 if name == policy else lifetime))
            for name in missing
        ]
        if self.clock.is_due:
            asked = self.clock.start_check()
            *replies, told = await self._fill([*leases, *created, TIME.in_full((first.lease,), ())])
            self.clock.finish_check(asked, told)
        else:
            replies = await self._fill([*leases, *created])
        versions = dict(zip(missing, replies[len(leases) :], strict=True))
        return [_lease_reply(reply) for reply in replies[: len(leases)]], versions

    async def renew_leases(self, requests: Sequence[LeaseRequest], ttl: float) -> list[bool]:
        """Let leases last for `ttl` seconds from now on.

        Return False for those that were taken away meanwhile, or have run out.
        """
        replies = await self._run(
            [RENEW.call((one.keys.lease,), (one.token, _ms(ttl))) for one in requests]
        )
        return [reply == 1 for reply in replies]

    async def store_many(
        self, entries: Sequence[tuple[LeaseRequest, bytes, float]], versions: Sequence[bytes]
    ) -> list[bool]:
        """Store entries (their bytes, for a ttl in seconds) under the leases they were granted.

        `versions` are those that all of them carry, which last for as long from now on. Return
        False for entries whose lease was taken away meanwhile: they are not stored.
        """
        scripts = [
            STORE.call((one.keys.value, one.keys.lease), (one.token, raw, max(_ms(ttl), 1)))
            for one, raw, ttl in entries
        ]
        longest = max(ttl for *_, ttl in entries)
        names = entries[0][0].keys.versions
        tags = list(zip(names, versions, strict=False))[1:] if longest else []
        kept = [
            KEEP_VERSION.in_full((name,), (version, _ms(longest + _VERSION_MARGIN_SECONDS)))
            for name, version in tags
        ]
        replies = await self._fill([*scripts, *kept])
        self._unstored = 0
        return [reply == 1 for reply in replies[: len(scripts)]]

    async def release_leases(self, requests: Iterable[LeaseRequest], throttle: float) -> None:
        """Give leases back; with a `throttle` (seconds) they keep everybody out for that long."""
        await self._run(
            [RELEASE.call((one.keys.lease,), (one.token, _ms(throttle))) for one in requests]
        )

    async def delete(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Delete entries and the leases on them, given as pairs of keys."""
        self._check_breaker()
        await self._invalidate(list(pairs), [])

    async def drop_versions(self, names: Iterable[str]) -> None:
        """Delete versions of tags or policies: what was stored under them is invalid.

        The next fill makes new ones. A server whose memory is full does this too.
        """
        self._check_breaker()
        await self._invalidate([], list(names))

    async def announce(self, values: Sequence[str]) -> None:
        """Tell the near caches of all processes that these entries have changed."""
        self._check_breaker()
        await self._send([], self._announcer.messages(values, ()))

    @property
    def refusal(self) -> str | None:
        """The reason why nothing could be stored lately, if Redis has refused it time and again."""
        if self._unstored < _UNHEALTHY_FROM:
            return None
        return f"nothing was stored in the last {self._unstored} attempts: {self._unstored_why}"

    async def ping(self, key: str) -> None:
        """Ask for a key, breaker or not.

        Raises:
            CacheUnavailable: no answer.
        """
        try:
            await self._client.get(key)
        except (RedisError, OSError) as error:
            raise CacheUnavailable(str(error), outage=True) from error

    async def probe(self, key: str) -> None:
        """Read a key as callers do, in the time that a read may take, breaker or not.

        Raises:
            CacheUnavailable: no answer, or not in time.
        """
        try:
            await self._reader.read((key.encode(),))
        except (RedisError, OSError) as error:
            raise CacheUnavailable(str(error), outage=True) from error

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip, shared with other callers, and return the replies."""
        self._check_breaker()
        return await self._send(commands)

    async def _fill(self, commands: Sequence[Command]) -> list[Any]:
        """Send the commands of a step of filling entries, and count refusals."""
        self._check_breaker()
        try:
            return await self._send(commands)
        except CacheUnavailable as unavailable:
            if not unavailable.outage and not isinstance(unavailable.__cause__, TryAgainError):
                self._unstored += 1
                self._unstored_why = str(unavailable)
            raise

    def _check_breaker(self) -> None:
        if self._breaker.is_open:
            raise CacheUnavailable("the breaker is open", outage=True)

    async def replay(self, pairs: Iterable[tuple[str, str]], versions: Iterable[str]) -> None:
        """Delete entries and drop versions in spite of an open breaker, for the recovery.

        Raises:
            CacheUnavailable: not all of it was done; doing it again is harmless.
        """
        await self._invalidate(list(pairs), list(versions))

    async def _invalidate(self, pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
        """Delete entries with their leases, and versions; then announce it."""
        values, leases = [value for value, _ in pairs], [lease for _, lease in pairs]
        news = self._announcer.messages(values, names)
        if not isinstance(self._client, RedisCluster):
            keys = [*leases, *values, *names]
            chunks = [keys[n : n + _MAX_KEYS] for n in range(0, len(keys), _MAX_KEYS)]
            await self._send([("UNLINK", *chunk) for chunk in chunks], news)
            return
        # One key to a command: where a slot is being moved, a command with two keys is refused
        # when they are on different nodes. Leases first: a load that began before the invalidation
        # must not store after the entry was deleted. The nodes are asked in parallel, so that only
        # waiting for one step puts the next one behind it.
        for step in (leases, [*values, *names]):
            if step:
                await self._send([("UNLINK", key) for key in step])
        await self._send([], news)

    async def _send(self, commands: Sequence[Command], news: Sequence[Command] = ()) -> list[Any]:
        """Return the replies to commands; `news` go behind them, and may be refused."""
        if not (commands or news):
            return []
        try:
            replies = await self._batcher.send([*commands, *news])
            told = replies[len(commands) :]
            self._announcer.note_replies(told)
            failed = [reply for reply in replies[: len(commands)] if isinstance(reply, Exception)]
            failed += [one for one in told if isinstance(one, Exception) and not is_refusal(one)]
            if failed:
                raise next((error for error in failed if _is_outage(error)), failed[0])
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error
        self._breaker.record_success()
        return replies

    def _unavailable(self, error: Exception) -> CacheUnavailable:
        outage = _is_outage(error)
        # Many callers are no sign of a server that is away.
        if outage and not isinstance(error, PoolTimeout):
            self._breaker.record_failure(repr(error))
        return CacheUnavailable(str(error), outage=outage)


def _is_outage(error: Exception) -> bool:
    """Return whether Redis does not answer at all, or answers not even reads."""
    return isinstance(error, _OUTAGE) or is_unreadable(error)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _lease_reply(reply: Any) -> LeaseReply:
    match reply:
        case [1] | b"OK":
            return LeaseReply(LeaseOutcome.GRANTED)
        case [0, 1]:
            return LeaseReply(LeaseOutcome.CHANGED)
        case [0, holder, ms]:
            outcome = LeaseOutcome.THROTTLED if holder == THROTTLED.encode() else LeaseOutcome.HELD
            return LeaseReply(outcome, max(ms, 0) / 1000, holder)
    raise TypeError(f"not a reply of the lease script: {reply!r}")
