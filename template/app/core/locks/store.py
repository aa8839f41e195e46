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
"""Raised when a server did not answer, or not as asked."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt to own one name."""

    name: str
    token: str
    """Random and never used again: it proves that a lock on a server belongs to this claim."""
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
    """Seconds until the claim can succeed even if nothing is released."""


@dataclass(frozen=True, slots=True)
class Released:
    confirmed: bool
    """The servers still had the lock for this claim."""
    listeners: int
    """How many processes were notified (a lower bound)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    prefix: str
    quarantine: float
    """Seconds that a server that may have forgotten locks refuses them; 0 never refuses."""
    fence_ttl: float
    """Seconds that a fence is kept after its last grant."""


class LockStore(Protocol):
    """Keeps locks on one server or on a quorum of them."""

    def configure(self, options: StoreOptions) -> None:
        """Set the names and times to use; called once, before anything else."""

    @property
    def capacity(self) -> int:
        """How many claims and releases may be under way at once."""

    @property
    def is_cluster(self) -> bool:
        """Whether locks can move from the server that granted them to another."""

    async def check_nodes(self) -> bool:
        """Begin the quarantine of servers that may have forgotten locks. Never raises NodeError.

        Returns:
            Whether locks that were refused so far can be granted now.
        """

    async def probe(self, *, listening: bool) -> bool:
        """Try every command that locks use, and log what the servers refuse.

        Args:
            listening: try SUBSCRIBE as well, which takes a connection for a moment.

        Returns:
            Whether the servers publish releases.

        Raises:
            NodeError: locks cannot be granted.
        """

    async def acquire(self, claim: Claim) -> Granted | Refused:
        """Claim a name.

        Raises:
            NodeError: too few servers answered.
        """

    async def extend(self, claims: Sequence[Claim]) -> list[bool | None]:
        """Give each claim its full ttl again, all in one round trip.

        For each: True extended, False no longer held, None unknown. Never raises NodeError.
        """

    async def release(self, claim: Claim) -> Released:
        """Release a claim; if a server cannot be reached, retry in the background.

        Never raises NodeError.
        """

    def release_later(self, claim: Claim) -> None:
        """Release a claim in the background, unless it expires first."""

    @property
    def quorum(self) -> int:
        """How many servers have to agree."""

    @property
    def clients(self) -> Sequence[RedisClient]:
        """One per server that reports releases (one in all for a cluster)."""

    @property
    def channel_prefix(self) -> str:
        """What precedes the name of a lock in the channel on which its releases are published."""

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

    A restart marker has to be in the same hash slot as the locks that it stands for, so a cluster
    has one per tag. More tags spread the locks better and cost more markers.
    """

    def __init__(self, prefix: str, *, tags: int) -> None:
        self.prefix = prefix
        self.channel_prefix = f"{prefix}:released:"
        """What precedes the name of a lock in the channel of its releases."""
        self._tags = tags

    def of(self, name: str) -> KeysOfLock:
        slot = f"{self.prefix}:{{{crc32(name.encode()) % self._tags}}}"
        return KeysOfLock(f"{slot}:held:{name}", f"{slot}:fence:{name}", f"{slot}:restart")

    def restart_markers(self) -> list[str]:
        return [f"{self.prefix}:{{{tag}}}:restart" for tag in range(self._tags)]
