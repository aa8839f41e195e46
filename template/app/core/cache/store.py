"""Everything the cache asks of Redis: one round trip each, none while the breaker is open."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from secrets import token_bytes
from typing import Any, TypeVar

from redis.exceptions import ClusterError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.cache.announcements import entries_message, versions_message
from app.core.cache.breaker import Breaker
from app.core.cache.entry import VERSION_SIZE
from app.core.cache.keys import Address
from app.core.cache.scripts import GIVE_UP, LEASE, RENEW, STORE, THROTTLED, VERSION
from app.core.redis import BatchReader, Command, CommandBatcher, PoolTimeout, RedisClient

T = TypeVar("T")

_OUTAGE = (RedisConnectionError, RedisTimeoutError, ClusterError, RedisClusterException, OSError)
# The version of a policy stays, or all its entries would expire with it. Tags are without number:
# each is forgotten after a while (30 days, in ms), which is the same as invalidating it once.
_TAG_TTL = 30 * 24 * 3600 * 1000


class CacheUnavailable(Exception):
    """Redis did not do what was asked; `outage` says that it could not be reached at all."""

    def __init__(self, message: str, *, outage: bool) -> None:
        super().__init__(message)
        self.outage = outage


class Grant(Enum):
    """What asking for a lease came to."""

    GRANTED = 1
    CHANGED = 2
    """The stored entry is no longer the one the caller saw: read again."""
    TAKEN = 3
    THROTTLED = 4


@dataclass(slots=True)
class LeaseReply:
    grant: Grant
    wait: float = 0
    """Seconds until the lease that stands in the way runs out."""
    holder: bytes = b""
    """What that lease is held by."""


class CacheStore:
    """One client, one reader, one breaker."""

    def __init__(
        self, client: RedisClient, reader: BatchReader, breaker: Breaker, channel: str | None
    ) -> None:
        """Invalidations are announced on `channel`; None: nobody listens."""
        self._channel = channel
        self._batcher = CommandBatcher(client)
        self._client = client
        self._reader = reader
        self._breaker = breaker

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values by key; shares its round trip with the other reads of this moment."""
        if self._breaker.is_open:
            raise CacheUnavailable("the breaker is open", outage=True)
        try:
            values = await self._reader.read(keys)
        except _OUTAGE as error:
            self._count(error)
            raise CacheUnavailable(str(error), outage=True) from error
        except RedisError as error:
            raise CacheUnavailable(str(error), outage=False) from error
        self._breaker.succeeded()
        return values

    async def lease_many(
        self, wanted: Sequence[tuple[Address, str, float, bytes]], missing: Sequence[str]
    ) -> tuple[list[LeaseReply], dict[str, bytes]]:
        """Ask for the right to fill entries, and create the versions that do not exist yet.

        `wanted` are addresses, tokens, the leases' ttl (seconds) and the id of the entry that the
        caller read. Returns a reply for each, and the missing versions by name: the new ones, or
        those that another process created first.
        """
        leases = [
            LEASE.call((address.value, address.lease), (token, _ms(ttl), seen))
            for address, token, ttl, seen in wanted
        ]
        return await self._ask_for(leases, wanted[0][0], missing)

    async def take_many(
        self, wanted: Sequence[tuple[Address, str, float, bytes]], missing: Sequence[str]
    ) -> tuple[list[LeaseReply], dict[str, bytes]]:
        """`lease_many` for leases that are granted whoever has them, and whatever is stored."""
        leases = [
            ("SET", address.lease, token, "PX", _ms(ttl)) for address, token, ttl, _ in wanted
        ]
        return await self._ask_for(leases, wanted[0][0], missing)

    async def _ask_for(
        self, leases: Sequence[Command], one: Address, missing: Sequence[str]
    ) -> tuple[list[LeaseReply], dict[str, bytes]]:
        policy = one.versions[0]
        # In full: it is short, and in a cluster there is often a node that does not know it yet.
        created = [
            VERSION.in_full((name,), (token_bytes(VERSION_SIZE), 0 if name == policy else _TAG_TTL))
            for name in missing
        ]
        replies = await self._run([*leases, *created])
        versions = dict(zip(missing, replies[len(leases) :], strict=True))
        return [_lease_reply(reply) for reply in replies[: len(leases)]], versions

    async def renew_leases(self, leases: Sequence[tuple[Address, str]], ttl: float) -> list[bool]:
        """Let leases (address and token) last for `ttl` seconds from now on.

        False for those that were taken away meanwhile, or have run out.
        """
        scripts = [RENEW.call((address.lease,), (token, _ms(ttl))) for address, token in leases]
        return [reply == 1 for reply in await self._run(scripts)]

    async def store_many(self, entries: Sequence[tuple[Address, str, bytes, float]]) -> list[bool]:
        """Store entries (address, token, bytes, ttl in seconds) under the leases they were granted.

        False for those whose lease was taken away meanwhile: they are not stored.
        """
        scripts = [
            STORE.call((address.value, address.lease), (token, raw, max(_ms(ttl), 1)))
            for address, token, raw, ttl in entries
        ]
        return [reply == 1 for reply in await self._run(scripts)]

    async def give_up(self, leases: Iterable[tuple[Address, str]], throttle: float) -> None:
        """Give leases back; with a `throttle` (seconds) they keep everybody out for that long."""
        await self._run(
            [GIVE_UP.call((address.lease,), (token, _ms(throttle))) for address, token in leases]
        )

    async def delete(self, addresses: Iterable[tuple[str, str]]) -> None:
        """Delete entries and the leases on them, given as pairs of keys."""
        await self._run(self._deletions(list(addresses)))

    async def renew_versions(self, names: Iterable[str]) -> None:
        """Take versions of tags or policies away: what was stored under them is invalid.

        The next fill makes new ones. A server whose memory is full does this too.
        """
        await self._run(self._renewals(list(names)))

    async def ping(self, key: str) -> None:
        """Ask for a key, breaker or not.

        Raises:
            CacheUnavailable: no answer.
        """
        try:
            await self._client.get(key)
        except (*_OUTAGE, RedisError) as error:
            raise CacheUnavailable(str(error), outage=True) from error

    async def probe(self, key: str) -> None:
        """Read a key as callers do, in the time that a read may take, breaker or not.

        Raises:
            CacheUnavailable: no answer, or not in time.
        """
        try:
            await self._reader.read((key.encode(),))
        except (*_OUTAGE, RedisError) as error:
            raise CacheUnavailable(str(error), outage=True) from error

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        """Commands in one round trip, which they share with those of other callers."""
        if self._breaker.is_open:
            raise CacheUnavailable("the breaker is open", outage=True)
        return await self._send(commands)

    async def replay(self, pairs: Iterable[tuple[str, str]], versions: Iterable[str]) -> None:
        """`delete` and `renew_versions` in spite of an open breaker, for the recovery.

        Raises:
            CacheUnavailable: not all of it was done; doing it again is harmless.
        """
        commands = [*self._deletions(list(pairs)), *self._renewals(list(versions))]
        await self._send(commands)

    def _deletions(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
        commands: list[tuple[Any, ...]] = [("UNLINK", *pair) for pair in pairs]
        if self._channel and pairs:
            commands.append(("PUBLISH", self._channel, entries_message(v for v, _ in pairs)))
        return commands

    def _renewals(self, names: Sequence[str]) -> list[tuple[Any, ...]]:
        commands: list[tuple[Any, ...]] = [("UNLINK", name) for name in names]
        if self._channel and names:
            commands.append(("PUBLISH", self._channel, versions_message(names)))
        return commands

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        try:
            replies = await self._batcher.send(commands)
            if errors := [reply for reply in replies if isinstance(reply, Exception)]:
                raise next((error for error in errors if isinstance(error, _OUTAGE)), errors[0])
        except _OUTAGE as error:
            self._count(error)
            raise CacheUnavailable(str(error), outage=True) from error
        except RedisError as error:
            raise CacheUnavailable(str(error), outage=False) from error
        self._breaker.succeeded()
        return replies

    def _count(self, error: Exception) -> None:
        if not isinstance(error, PoolTimeout):  # many callers are no sign of a server that is away
            self._breaker.failed(repr(error))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _lease_reply(reply: Any) -> LeaseReply:
    match reply:
        case [1] | b"OK":
            return LeaseReply(Grant.GRANTED)
        case [0, 1]:
            return LeaseReply(Grant.CHANGED)
        case [0, holder, ms]:
            grant = Grant.THROTTLED if holder == THROTTLED.encode() else Grant.TAKEN
            return LeaseReply(grant, max(ms, 0) / 1000, holder)
    raise TypeError(f"not a reply of the lease script: {reply!r}")
