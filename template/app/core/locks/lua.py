"""Locks on one Redis: a single server, the primary that sentinels name, or a cluster.

One atomic script per step. A lock is as available as its server, and after a crash, FLUSHALL or a
failover the quarantine (see `Locks`) stands between a forgotten lock and a second grant. What no
quarantine covers is a primary that is cut off and goes on granting to the clients on its side: set
`min-replicas-to-write`, and check the fence where it matters.
"""

from collections.abc import Sequence

from app.core.locks.node import Node, NodeError, was_lost
from app.core.locks.rights import needed, tells_of_releases
from app.core.locks.store import (
    Claim,
    Granted,
    PubSubFactory,
    Refused,
    Released,
    StoreOptions,
)
from app.core.redis import RedisClient, is_refusal
from app.core.redis import Refused as ServerRefused
from app.core.tasks import Tasks


class LuaStore:
    """Keeps locks behind one client, which should not retry by itself."""

    quorum = 1

    def __init__(self, client: RedisClient, *, timeout: float = 0.5) -> None:
        """`timeout` is the longest one command may take in all, in seconds."""
        self._background = Tasks()
        self._node = Node(client, label="redis", timeout=timeout, background=self._background)
        self._timeout = timeout

    def configure(self, options: StoreOptions) -> None:
        self._node.configure(options)

    def channel(self, name: str) -> str:
        return self._node.channel(name)

    def listeners(self) -> Sequence[PubSubFactory]:
        return [self._node.subscribe]

    @property
    def capacity(self) -> int:
        return self._node.capacity

    @property
    def is_cluster(self) -> bool:
        return self._node.is_cluster

    async def check_nodes(self) -> bool:
        try:
            return await self._node.check_nodes()
        except NodeError:
            return False  # counted; the next refusal checks again

    async def check(self, *, listening: bool) -> bool:
        found = await self._node.check(listening=listening)
        if refused := needed(found):
            raise ServerRefused(refused)
        return tells_of_releases(found)

    async def acquire(self, claim: Claim) -> Granted | Refused:
        try:
            return await self._node.acquire(claim)
        except NodeError as error:
            if is_refusal(error):
                raise
            return await self._acquire_again(claim, lost=was_lost(error))

    async def _acquire_again(self, claim: Claim, *, lost: bool) -> Granted | Refused:
        """The reply may be all that was lost, and the same token gets the same answer."""
        try:
            answer = await self._node.acquire(claim)
        except NodeError as error:
            if lost or was_lost(error):
                self._node.release_later(claim)
            raise
        if lost and isinstance(answer, Refused):
            self._node.release_later(claim)  # the first attempt may have been granted, or still be
        return answer

    async def extend(self, claims: Sequence[Claim]) -> list[bool | None]:
        return await self._node.extend(claims)

    async def release(self, claim: Claim) -> Released:
        try:
            told = await self._node.release(claim)
        except NodeError:
            self._node.release_later(claim)
            return Released(confirmed=False, listeners=0)
        return Released(confirmed=told is not None, listeners=told or 0)

    def release_later(self, claim: Claim) -> None:
        self._node.release_later(claim)

    async def close(self) -> None:
        await self._background.stop(2 * self._timeout)
