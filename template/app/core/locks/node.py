"""One server, or one cluster, that keeps locks: the scripts with names, times and errors."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.client import PubSub
from redis.exceptions import NoScriptError, RedisError, ResponseError, SlotNotCoveredError

from app.core.locks import metrics
from app.core.locks.rights import WITHOUT, Finding, in_script
from app.core.locks.scripts import ACQUIRE, CHECK, CHECK_MARKER, EXTEND, RAISE_FENCE, RELEASE, VOUCH
from app.core.locks.store import Claim, Granted, LockKeys, Reason, Refused, StoreOptions
from app.core.redis import (
    PoolTimeout,
    RedisClient,
    Script,
    log_refusal,
    pool_size,
    reply_code,
)
from app.core.tasks import Tasks

NodeError = (RedisError, OSError, TimeoutError)

_CLUSTER_TAGS = 64
_CHECKED_AT_ONCE = 4
_RESERVED = 3
"""Connections that are left for listening, for renewals, and for what goes on in the background."""
_EXTENDED_AT_ONCE = 500
_EXTEND_SHARE = 0.25
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_HELD, _QUARANTINE = 0, -1


@dataclass(frozen=True, slots=True)
class _MarkerState:
    """What a server answers about one marker."""

    wait_ms: int
    """For how long locks beside the marker are refused."""
    server: str
    """The server, and its replication history."""
    before: str
    """Who wrote the marker before, if this server did not know itself in it."""
    steady: bool
    """The server has run for longer than any lock lasts, and was never a replica."""


def was_lost(error: BaseException) -> bool:
    """Whether a claim that failed with this error may have been granted all the same.

    It was not if the server answered with an error, or was not even asked.
    """
    return reply_code(error) is None and not isinstance(error, PoolTimeout)


class Node:
    """Runs the scripts; every call ends within `timeout` seconds."""

    def __init__(
        self, client: RedisClient, *, label: str, timeout: float, background: Tasks
    ) -> None:
        """`label` names the node in metrics."""
        self._client = client
        self._label = label
        self._timeout = timeout
        self._background = background
        self._unreleased: dict[str, tuple[Claim, float]] = {}
        self._releasing: asyncio.Task[None] | None = None
        self.is_cluster = isinstance(client, RedisCluster)
        self._tags = _CLUSTER_TAGS if self.is_cluster else 1
        self._keys = LockKeys("lock", tags=self._tags)
        self._logged: set[str] = set()
        self._quarantine_ms = 0
        self._fence_ttl_ms = 0

    def configure(self, options: StoreOptions) -> None:
        self._keys = LockKeys(options.prefix, tags=self._tags)
        self._quarantine_ms = int(options.quarantine * 1000)
        self._fence_ttl_ms = int(options.fence_ttl * 1000)

    def channel(self, name: str) -> str:
        return self._keys.channel(name)

    @property
    def capacity(self) -> int:
        """How many commands may be under way at once."""
        return max(1, pool_size(self._client) - _RESERVED)

    async def check_nodes(self) -> bool:
        """Connect, and start the quarantine of a server without memory.

        Returns:
            Whether a quarantine was ended, because nothing can have been forgotten.

        Raises:
            NodeError: it did not answer.
        """
        if not self.is_cluster or not self._quarantine_ms:
            await self._check_marker(self._keys.restart_markers()[0])
            return False
        states: dict[str, _MarkerState] = {}
        slots = asyncio.Semaphore(_CHECKED_AT_ONCE)

        async def look_at(marker: str) -> None:
            async with slots:
                states[marker] = await self._check_marker(marker)

        outcomes = await asyncio.gather(
            *map(look_at, self._keys.restart_markers()), return_exceptions=True
        )
        vouched = [
            await self._run(VOUCH, [marker], [server, self._quarantine_ms])
            for marker, server in _moved(states).items()
        ]
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return any(vouched)

    async def _check_marker(self, marker: str) -> _MarkerState:
        wait_ms, server, before, steady = await self._run(
            CHECK_MARKER, [marker], [self._quarantine_ms]
        )
        return _MarkerState(wait_ms, server.decode(), before.decode(), bool(steady))

    async def check(self, *, listening: bool) -> list[Finding]:
        """Do all that locks do, on keys of its own, and log what is refused for the first time.

        Args:
            listening: subscribe, too, which takes a connection for a moment.

        Raises:
            NodeError: it did not answer.
        """
        found = []
        for marker in self._a_marker_of_each_server():
            keys = [f"{marker}:check", f"{marker}:check:hash"]
            try:
                refused = await self._run(CHECK, keys, [self._keys.channel("check")])
            except ResponseError as error:
                found.append(Finding(self._label, "EVALSHA", error))
            else:
                found += [
                    Finding(self._label, command.decode(), in_script(reply))
                    for command, reply in zip(refused[::2], refused[1::2], strict=True)
                ]
        if listening:
            found += await self._check_listening()
        for finding in found:
            self._log(finding)
        self._logged &= {finding.command for finding in found} | {"SUBSCRIBE"}
        return found

    async def _check_listening(self) -> list[Finding]:
        async with asyncio.timeout(self._timeout):
            pubsub = await self.subscribe()
            try:
                await pubsub.subscribe(self._keys.channel("check"))
                await pubsub.get_message(timeout=None)
            except ResponseError as error:
                return [Finding(self._label, "SUBSCRIBE", error)]
            finally:
                await pubsub.aclose()
        return []

    def _log(self, finding: Finding) -> None:
        if finding.command in self._logged:
            return
        self._logged.add(finding.command)
        is_channel = "channel" in str(finding.error)
        target = self._keys.channel("*") if is_channel else f"{self._keys.prefix}:*"
        without = WITHOUT.get(finding.command, "there are no locks")
        log_refusal("locks", self._client, finding.command, target, finding.error, without=without)

    def _a_marker_of_each_server(self) -> list[str]:
        markers = self._keys.restart_markers()
        return [markers[group[0]] for group in self._by_server(markers)]

    async def acquire(self, claim: Claim) -> Granted | Refused:
        """Claim a name here; claiming again with the same token gives the same fence.

        Raises:
            NodeError: it did not answer, so the claim may have been granted or not.
        """
        name = claim.name
        code, value = await self._run(
            ACQUIRE,
            [self._keys.lock(name), self._keys.fence(name), self._keys.restart_marker(name)],
            [claim.token, claim.ttl_ms, self._quarantine_ms, self._fence_ttl_ms],
        )
        if code == _HELD:
            # Somebody may have set the key by hand, and without expiry.
            return Refused(Reason.HELD, value / 1000 if value >= 0 else claim.ttl)
        if code == _QUARANTINE:
            return Refused(Reason.QUARANTINE, value / 1000)
        return Granted(value)

    async def raise_fence(self, claim: Claim, fence: int) -> bool:
        """Let no later grant have a fence up to `fence`; False when the claim is not ours here.

        Raises:
            NodeError: it did not answer.
        """
        keys = [self._keys.lock(claim.name), self._keys.fence(claim.name)]
        answer = await self._run(RAISE_FENCE, keys, [claim.token, fence, self._fence_ttl_ms])
        return bool(answer)

    async def release(self, claim: Claim) -> int | None:
        """Give a claim back; how many processes were told, or None when it was not ours.

        Raises:
            NodeError: it did not answer.
        """
        keys = [self._keys.lock(claim.name)]
        told = await self._run(RELEASE, keys, [claim.token, self._keys.channel(claim.name)])
        return None if told < 0 else int(told)

    def release_later(self, claim: Claim) -> None:
        """Release, in the background, a claim that may be here, unless it expires first."""
        self._unreleased[claim.token] = (claim, time.monotonic() + claim.ttl)
        if self._releasing is None or self._releasing.done():
            self._releasing = self._background.start(self._release_all())

    async def _release_all(self) -> None:
        # One claim after the other: a server that is away is asked once a second, however many
        # claims it may have.
        pause = _FIRST_PAUSE
        while self._unreleased:
            token, (claim, _) = next(iter(self._unreleased.items()))
            try:
                await self.release(claim)
                del self._unreleased[token]
            except NodeError:
                now = time.monotonic()
                self._unreleased = {
                    token: (claim, expires)
                    for token, (claim, expires) in self._unreleased.items()
                    if expires > now
                }
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def extend(self, claims: Sequence[Claim]) -> list[bool | None]:
        """True extended, False not ours, None unknown, for each claim. Never raises NodeError."""
        answers: list[bool | None] = [None] * len(claims)
        # All leases of a process wait for the slowest server: none may run out meanwhile.
        patience = min(self._timeout, _EXTEND_SHARE * min(claim.ttl for claim in claims))

        async def extend_group(positions: list[int]) -> None:
            for start in range(0, len(positions), _EXTENDED_AT_ONCE):
                chunk = positions[start : start + _EXTENDED_AT_ONCE]
                try:
                    codes = await self._extend_together([claims[p] for p in chunk], patience)
                except NodeError:
                    return
                for position, code in zip(chunk, codes, strict=True):
                    answers[position] = code if code is None else bool(code)

        # A frozen shard must not keep the leases on the others from being renewed.
        keys = [self._keys.lock(claim.name) for claim in claims]
        await asyncio.gather(*(extend_group(group) for group in self._by_server(keys)))
        return answers

    async def subscribe(self) -> PubSub:
        """A fresh, unconnected subscriber; its connection counts against the client's pool.

        Raises:
            NodeError: the cluster could not be discovered.
        """
        client = self._client
        if isinstance(client, RedisCluster):
            await client.initialize()
            # Any node will do: the cluster bus carries every message everywhere.
            pubsub: PubSub = client.pubsub(node=client.get_random_node())
            return pubsub
        return client.pubsub()

    def failed(self, error: BaseException) -> None:
        metrics.node_errors.labels(self._label, type(error).__name__).inc()

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

    async def _extend_together(self, claims: Sequence[Claim], patience: float) -> list[int | None]:
        commands = [
            ([self._keys.lock(claim.name)], [claim.token, claim.ttl_ms]) for claim in claims
        ]
        try:
            async with asyncio.timeout(patience):
                codes = await self._pipeline([EXTEND.by_digest(*command) for command in commands])
                if any(isinstance(code, NoScriptError) for code in codes):
                    codes = await self._pipeline([EXTEND.in_full(*command) for command in commands])
        except NodeError as error:
            self.failed(error)
            raise
        for code in codes:
            if isinstance(code, Exception):
                self.failed(code)
        return [None if isinstance(code, Exception) else int(code) for code in codes]

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await script.run(self._client, keys, arguments)
        except NodeError as error:
            self.failed(error)
            raise


def _moved(states: Mapping[str, _MarkerState]) -> dict[str, str]:
    """Return the markers that moved here with their slots, and the servers where they are now.

    Nothing was forgotten if the server that wrote the marker is still the same (it speaks for other
    markers), and the one that has it now has known itself for longer than any lock lasts: from
    another marker, or because it has run for that long. A server that took over from a failed one
    knows itself in no marker, and whoever gave away its last one can no longer speak.
    """
    alive = {state.server for state in states.values()}
    trusted = {state.server for state in states.values() if not state.wait_ms or state.steady}
    return {
        marker: state.server
        for marker, state in states.items()
        if state.wait_ms and state.before in alive and state.server in trusted
    }
