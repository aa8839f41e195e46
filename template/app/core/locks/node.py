"""Locks on one Redis: a single server, the primary that sentinels name, or a cluster.

One atomic script per step. A lock is as available as its server, and after a crash, FLUSHALL or a
failover the quarantine (see `Locks`) stands between a forgotten lock and a second grant. What no
quarantine covers is a primary that is cut off and goes on granting to the clients on its side: set
`min-replicas-to-write`, and check the fence where it matters.
"""

import asyncio
import random
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import NoScriptError, ResponseError, SlotNotCoveredError

from app.core.locks import metrics
from app.core.locks.scripts import (
    ACQUIRE,
    CHECK_MARKER,
    EXTEND,
    PROBE,
    RAISE_FENCE,
    RELEASE,
    VOUCH,
    MarkerState,
    moved,
)
from app.core.locks.store import (
    Claim,
    Granted,
    LockKeys,
    NodeError,
    Reason,
    Refused,
    Released,
    StoreOptions,
)
from app.core.redis import (
    PoolTimeout,
    RedisClient,
    Script,
    is_refusal,
    log_refusal,
    pool_size,
    reply_code,
    try_subscribe,
)
from app.core.redis import Refused as ServerRefused
from app.core.tasks import Tasks

_CLUSTER_TAGS = 64
_MARKERS_AT_ONCE = 4
_RESERVED_CONNECTIONS = 3
"""For listening, for renewals, and for what goes on in the background."""
_CLAIMS_AT_ONCE = 500
"""Leases that are renewed in one round trip, at most."""
_EXTEND_SHARE = 0.25
"""Of the shortest ttl: the longest that a renewal takes."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds between two attempts to release what is left on a server."""
_REST = 0.25
"""Seconds for which a node of a quorum is not asked after a failure, if others are enough."""
_HELD, _QUARANTINE = 0, -1

OPTIONAL = {
    "INFO": "a replica that was promoted, or a restart on an older snapshot, may grant a lock that "
    "is held: only an empty server is noticed",
    "PUBSUB": "waiting processes may all try at once when a lock is released",
    "PUBLISH": "no process hears of releases: those that wait poll ten times a second",
    "SUBSCRIBE": "this process hears of no releases: while it waits it polls ten times a second",
}
"""Commands that locks can do without, and what is missing then."""

# What precedes the reply of a command to a script.
_IN_SCRIPT = re.compile(r"(?:@?user_script: ?\d+: |ERR |-)+")


def may_be_granted(error: BaseException) -> bool:
    """Return whether a claim that failed with this error may have been granted all the same.

    It was not if the server answered with an error, or was not even asked.
    """
    return reply_code(error) is None and not isinstance(error, PoolTimeout)


class Node:
    """Keeps locks behind one client. Several nodes make a quorum, see `RedlockStore`."""

    quorum = 1

    def __init__(
        self,
        client: RedisClient,
        *,
        timeout: float = 0.5,
        label: str = "redis",
        tasks: Tasks | None = None,
    ) -> None:
        """Do no I/O.

        Args:
            client: should not retry by itself.
            timeout: the longest that one command may take in all, in seconds.
            label: names the node in metrics.
            tasks: own what goes on in the background, if the node is one of several.
        """
        self.is_cluster = isinstance(client, RedisCluster)
        self._client = client
        self._timeout = timeout
        self._label = label
        self._tasks = Tasks() if tasks is None else tasks
        self._tags = _CLUSTER_TAGS if self.is_cluster else 1
        self._keys = LockKeys("lock", tags=self._tags)
        self._quarantine_ms = 0
        self._fence_ttl_ms = 0
        self._resting_until = 0.0
        self._leftovers: dict[str, tuple[Claim, float]] = {}
        self._releasing: asyncio.Task[None] | None = None
        self._logged: set[str] = set()

    def configure(self, options: StoreOptions) -> None:
        self._keys = LockKeys(options.prefix, tags=self._tags)
        self._quarantine_ms = int(options.quarantine * 1000)
        self._fence_ttl_ms = int(options.fence_ttl * 1000)

    @property
    def capacity(self) -> int:
        return max(1, pool_size(self._client) - _RESERVED_CONNECTIONS)

    @property
    def is_resting(self) -> bool:
        """Whether a command failed here within the last quarter of a second."""
        return time.monotonic() < self._resting_until

    async def acquire(self, claim: Claim) -> Granted | Refused:
        try:
            return await self.try_claim(claim)
        except NodeError as error:
            if is_refusal(error):
                raise
            return await self._claim_again(claim, maybe_granted=may_be_granted(error))

    async def _claim_again(self, claim: Claim, *, maybe_granted: bool) -> Granted | Refused:
        """The reply may be all that was lost, and the same token gets the same answer."""
        try:
            answer = await self.try_claim(claim)
        except NodeError as error:
            if maybe_granted or may_be_granted(error):
                self.release_later(claim)
            raise
        if maybe_granted and isinstance(answer, Refused):
            self.release_later(claim)  # the first attempt may have been granted, or still be
        return answer

    async def try_claim(self, claim: Claim) -> Granted | Refused:
        """Claim a name, once; claiming it again with the same token returns the same fence.

        Raises:
            NodeError: the server did not answer, so the claim may have been granted or not.
        """
        code, value = await self._run(
            ACQUIRE,
            self._keys.of(claim.name),
            (claim.token, claim.ttl_ms, self._quarantine_ms, self._fence_ttl_ms),
        )
        if code == _HELD:
            # Somebody may have set the key by hand, and without expiry.
            return Refused(Reason.HELD, value / 1000 if value >= 0 else claim.ttl)
        if code == _QUARANTINE:
            return Refused(Reason.QUARANTINE, value / 1000)
        return Granted(value)

    async def raise_fence(self, claim: Claim, fence: int) -> bool:
        """Make every later fence larger than `fence`; return False if the claim is not held here.

        Raises:
            NodeError: the server did not answer.
        """
        keys = self._keys.of(claim.name)
        arguments = (claim.token, fence, self._fence_ttl_ms)
        return bool(await self._run(RAISE_FENCE, (keys.lock, keys.fence), arguments))

    async def release(self, claim: Claim) -> Released:
        try:
            return await self._release(claim)
        except NodeError:
            self.release_later(claim)
            return Released(confirmed=False, listeners=0)

    async def _release(self, claim: Claim) -> Released:
        channel = self._keys.channel_prefix + claim.name
        listeners = await self._run(
            RELEASE, (self._keys.of(claim.name).lock,), (claim.token, channel)
        )
        return Released(confirmed=listeners >= 0, listeners=max(0, listeners))

    def release_later(self, claim: Claim) -> None:
        self._leftovers[claim.token] = (claim, time.monotonic() + claim.ttl)
        if self._releasing is None or self._releasing.done():
            self._releasing = self._tasks.start(self._release_leftovers())

    async def _release_leftovers(self) -> None:
        # One claim after the other: a server that is away is asked once a second, however many
        # claims there are.
        pause = _FIRST_PAUSE
        while self._leftovers:
            token, (claim, _) = next(iter(self._leftovers.items()))
            try:
                await self._release(claim)
                del self._leftovers[token]
            except NodeError:
                now = time.monotonic()
                self._leftovers = {
                    token: (claim, expires)
                    for token, (claim, expires) in self._leftovers.items()
                    if expires > now
                }
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def extend(self, claims: Sequence[Claim]) -> list[bool | None]:
        answers: list[bool | None] = [None] * len(claims)
        # All leases of a process wait for the slowest server: none may expire meanwhile.
        seconds = min(self._timeout, _EXTEND_SHARE * min(claim.ttl for claim in claims))

        async def extend_on_server(positions: list[int]) -> None:
            for start in range(0, len(positions), _CLAIMS_AT_ONCE):
                chunk = positions[start : start + _CLAIMS_AT_ONCE]
                try:
                    replies = await self._extend_together([claims[p] for p in chunk], seconds)
                except NodeError:
                    return
                for position, reply in zip(chunk, replies, strict=True):
                    answers[position] = reply

        # A frozen shard must not keep the leases on the others from being renewed.
        groups = self._by_server([self._keys.of(claim.name).lock for claim in claims])
        await asyncio.gather(*map(extend_on_server, groups))
        return answers

    async def _extend_together(self, claims: Sequence[Claim], seconds: float) -> list[bool | None]:
        commands = [
            ((self._keys.of(claim.name).lock,), (claim.token, claim.ttl_ms)) for claim in claims
        ]
        try:
            async with asyncio.timeout(seconds):
                replies = await self._pipeline([EXTEND.by_digest(*command) for command in commands])
                if any(isinstance(reply, NoScriptError) for reply in replies):
                    replies = await self._pipeline([EXTEND.in_full(*c) for c in commands])
        except NodeError as error:
            self._note_failure(error)
            raise
        for reply in replies:
            if isinstance(reply, Exception):
                self._note_failure(reply)
        return [None if isinstance(reply, Exception) else bool(reply) for reply in replies]

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def check_nodes(self) -> bool:
        with suppress(*NodeError):  # which are counted; the next refusal checks again
            if self.is_cluster and self._quarantine_ms:
                return await self._check_all_markers()
            await self._check_marker(self._keys.restart_markers()[0])
        return False

    async def _check_all_markers(self) -> bool:
        states: dict[str, MarkerState] = {}
        slots = asyncio.Semaphore(_MARKERS_AT_ONCE)

        async def check(marker: str) -> None:
            with suppress(*NodeError):
                async with slots:
                    states[marker] = await self._check_marker(marker)

        await asyncio.gather(*map(check, self._keys.restart_markers()))
        vouched = [
            await self._run(VOUCH, (marker,), (server, self._quarantine_ms))
            for marker, server in moved(states).items()
        ]
        return any(vouched)

    async def _check_marker(self, marker: str) -> MarkerState:
        wait_ms, server, before, steady = await self._run(
            CHECK_MARKER, (marker,), (self._quarantine_ms,)
        )
        return MarkerState(wait_ms, server.decode(), before.decode(), bool(steady))

    async def probe(self, *, listening: bool) -> bool:
        refused: dict[str, ResponseError] = {}
        try:
            for marker in self._marker_of_each_server():
                refused |= await self._try_commands(marker)
            if listening:
                refused |= await self._try_listening()
        finally:  # also if one server, or the connection that listens, does not answer
            self._log_refused(refused)
        needed = [command for command in refused if command not in OPTIONAL]
        if needed:
            reasons = (f"{self._label}: {command}: {refused[command]}" for command in needed)
            raise ServerRefused("; ".join(reasons))
        return "PUBLISH" not in refused

    async def _try_commands(self, marker: str) -> dict[str, ResponseError]:
        keys = (f"{marker}:probe", f"{marker}:probe:hash")
        try:
            refused = await self._run(PROBE, keys, (f"{self._keys.channel_prefix}probe",))
        except ResponseError as error:
            return {"EVALSHA": error}
        return {
            command.decode(): ResponseError(_IN_SCRIPT.sub("", reply.decode(), count=1))
            for command, reply in zip(refused[::2], refused[1::2], strict=True)
        }

    async def _try_listening(self) -> dict[str, ResponseError]:
        channel = f"{self._keys.channel_prefix}probe"
        try:
            await try_subscribe(self._client, channel, seconds=self._timeout)
        except ResponseError as error:
            return {"SUBSCRIBE": error}
        return {}

    def _log_refused(self, refused: Mapping[str, ResponseError]) -> None:
        """Log what was not refused the last time."""
        for command, error in refused.items():
            if command in self._logged:
                continue
            about_channel = "channel" in str(error)
            target = f"{self._keys.channel_prefix}*" if about_channel else f"{self._keys.prefix}:*"
            without = OPTIONAL.get(command, "there are no locks")
            log_refusal("locks", self._client, command, target, error, without=without)
        # SUBSCRIBE is not tried each time.
        self._logged = {*refused, *(self._logged & {"SUBSCRIBE"})}

    @property
    def clients(self) -> Sequence[RedisClient]:
        return [self._client]

    @property
    def channel_prefix(self) -> str:
        return self._keys.channel_prefix

    async def close(self) -> None:
        await self._tasks.stop(2 * self._timeout)

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await script.run(self._client, keys, arguments)
        except NodeError as error:
            self._note_failure(error)
            raise

    def _note_failure(self, error: Exception) -> None:
        metrics.node_errors.labels(self._label, type(error).__name__).inc()
        self._resting_until = time.monotonic() + _REST

    def _marker_of_each_server(self) -> list[str]:
        markers = self._keys.restart_markers()
        return [markers[group[0]] for group in self._by_server(markers)]

    def _by_server(self, keys: Sequence[str]) -> list[list[int]]:
        """The positions of the keys, in a list for each server that has some of them."""
        if not isinstance(self._client, RedisCluster):
            return [list(range(len(keys)))]
        groups: dict[str, list[int]] = {}
        for position, key in enumerate(keys):
            try:
                server = self._client.get_node_from_key(key)
            except SlotNotCoveredError:  # at the moment; sending it anyway looks for the server
                server = None
            groups.setdefault(server.name if server else "", []).append(position)
        return list(groups.values())
