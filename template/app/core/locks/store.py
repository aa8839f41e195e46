"""What `Locks` needs from the servers, whichever strategy keeps the locks.

A store owns its leftovers: whenever `acquire` does not return `Granted`, the store has released, or
is releasing in the background, whatever that call may have left on a server.
"""

from binascii import crc32
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from redis.exceptions import RedisError

from app.core.redis import RedisClient

NodeError = (RedisError, OSError, TimeoutError)
"""What a server raises that did not do as asked."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt to own one name."""

    name: str
    token: str
    """A secret of this attempt, never used for another: it proves what is ours."""
    ttl: float
    """In seconds."""

    @property
    def ttl_ms(self) -> int:
        return int(self.ttl * 1000)


@dataclass(frozen=True, slots=True)
class Granted:
    fence: int


class Reason(StrEnum):
    """Why a claim was refused."""

    HELD = "held"
    SPLIT = "split"
    """Several claims got some nodes each and none got a majority: try again after a random wait."""
    HELD_HERE = "held_here"
    """By another task of this process, so the servers were not asked."""
    QUARANTINE = "quarantine"
    """A server may have forgotten locks, and refuses all until those have expired."""


@dataclass(frozen=True, slots=True)
class Refused:
    reason: Reason
    retry_after: float
    """Seconds until the claim can succeed even if nobody releases anything."""


@dataclass(frozen=True, slots=True)
class Released:
    confirmed: bool
    """The servers said that the lock was still ours until now."""
    listeners: int
    """How many processes were told (a lower bound)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    prefix: str
    quarantine: float
    """Seconds that a server without memory refuses for; 0 never refuses."""
    fence_ttl: float
    """Seconds that a fence counter outlives its last grant."""


class LockStore(Protocol):
    """Keeps locks on one server or on a quorum of them."""

    def configure(self, options: StoreOptions) -> None:
        """Learn the names and times to use; called once, before anything else."""

    @property
    def capacity(self) -> int:
        """How many claims and releases may be under way at once."""

    @property
    def is_cluster(self) -> bool:
        """Whether locks move from server to server, so that one has those which another granted."""

    async def check_nodes(self) -> bool:
        """Find servers without memory now rather than at the first claim. Never raises for them.

        Returns:
            Whether some locks that were refused so far need not be.
        """

    async def probe(self, *, listening: bool) -> bool:
        """Do what locks do, and log what the servers refuse; with `listening` SUBSCRIBE as well.

        Returns:
            Whether the servers tell of releases.

        Raises:
            RedisError, OSError, TimeoutError: locks cannot be granted.
        """

    async def acquire(self, claim: Claim) -> Granted | Refused:
        """Claim a name.

        Raises:
            RedisError, OSError, TimeoutError: too few servers answered.
        """

    async def extend(self, claims: Sequence[Claim]) -> list[bool | None]:
        """Give each claim its full ttl again, all in one round trip.

        For each: True extended, False no longer ours, None unknown. Never raises for the servers.
        """

    async def release(self, claim: Claim) -> Released:
        """Give a claim back; what cannot be reached is retried in the background.

        Never raises for the servers.
        """

    def release_later(self, claim: Claim) -> None:
        """Give a claim back in the background, after all others."""

    @property
    def quorum(self) -> int:
        """How many servers have to agree."""

    @property
    def clients(self) -> Sequence[RedisClient]:
        """One per server that reports releases (one in all for a cluster)."""

    @property
    def channel_prefix(self) -> str:
        """What the channel on which releases are reported has before the name of the lock."""

    async def close(self) -> None:
        """Wait, for a bounded time, until everything that runs in the background is done."""


class KeysOfLock(NamedTuple):
    """The keys of one lock."""

    lock: str
    """Holds the token of the claim; exists while the lock is held."""
    fence: str
    restart_marker: str
    """Of the server; shared with other locks."""


class LockKeys:
    """Keys of one service; the keys of one lock share a hash tag, so a cluster keeps them together.

    A server's restart marker has to live in the same hash slot as the locks it speaks for, so a
    cluster has one per tag. More tags spread the locks better and cost more markers.
    """

    def __init__(self, prefix: str, *, tags: int) -> None:
        self.prefix = prefix
        self.channel_prefix = f"{prefix}:released:"
        """What the channel of releases has before the name of the lock."""
        self._tags = tags

    def of(self, name: str) -> KeysOfLock:
        slot = f"{self.prefix}:{{{crc32(name.encode()) % self._tags}}}"
        return KeysOfLock(f"{slot}:held:{name}", f"{slot}:fence:{name}", f"{slot}:restart")

    def restart_markers(self) -> list[str]:
        return [f"{self.prefix}:{{{tag}}}:restart" for tag in range(self._tags)]
