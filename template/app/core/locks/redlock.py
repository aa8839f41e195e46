"""Locks on a majority of independent Redis servers: Redlock.

The algorithm is Salvatore Sanfilippo's (https://redis.io/docs/latest/develop/clients/patterns/
distributed-locks/) with what its critics asked for: a fence (Martin Kleppmann, "How to do
distributed locking", 2016), a refusal by servers that lost their memory, and a deadline that is
worked out anew with every renewal.

* All nodes are asked in parallel, and the answer is known as soon as a majority says yes or can no
  longer do so: a slow, frozen or dead minority costs nothing.
* The fence is the largest that any voter gave, then raised on a majority. Any later majority shares
  a node with that one, so its fence is larger. This needs no clock as long as the nodes remember;
  for nodes that forgot, their clocks must differ by less than the quarantine.
* A claim that failed is released on every node, but only after its acquire has ended there:
  otherwise the release could overtake it and leave the lock behind. A node that froze can still
  run an old acquire later; what it leaves expires after one ttl, and is on that node alone.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.core.locks.node import Node, may_be_granted
from app.core.locks.store import (
    Claim,
    Granted,
    Reason,
    Refused,
    Released,
    StoreOptions,
)
from app.core.redis import RedisClient, is_refusal
from app.core.redis import Refused as ServerRefused
from app.core.tasks import Tasks

T = TypeVar("T")
Answers = dict[Node, asyncio.Task[T]]

_PAUSE = 0.01
"""A wait that takes so many seconds longer than it should: the process was suspended."""


class NoMajority(RedisError):
    """Too few nodes answered to decide."""


class RedlockStore:
    """Keeps locks on a majority of an odd number of independent servers, not of their replicas."""

    is_cluster = False

    def __init__(
        self,
        clients: Sequence[Redis],
        *,
        node_timeout: float = 0.05,
        ttl_share: float = 0.05,
        settle_timeout: float = 0.5,
    ) -> None:
        """Times are in seconds.

        Args:
            clients: one per node; they should not retry by themselves.
            node_timeout: the longest wait for the vote of a node.
            ttl_share: the same as a share of the ttl, as that much of the lease has passed by then.
            settle_timeout: how long a late command may continue in the background.

        Raises:
            ValueError: fewer than three nodes, or an even number.
        """
        if len(clients) < 3 or len(clients) % 2 == 0:
            raise ValueError(f"Redlock needs 3, 5 or 7 independent nodes, not {len(clients)}")
        self.quorum = len(clients) // 2 + 1
        self._tasks = Tasks()
        self._nodes = [
            Node(client, timeout=settle_timeout, label=str(number), tasks=self._tasks)
            for number, client in enumerate(clients)
        ]
        self._node_timeout = node_timeout
        self._ttl_share = ttl_share
        self._settle_timeout = settle_timeout
        self._unsettled: dict[str, Answers[Granted | Refused]] = {}

    def configure(self, options: StoreOptions) -> None:
        for node in self._nodes:
            node.configure(options)

    @property
    def capacity(self) -> int:
        return min(node.capacity for node in self._nodes)

    async def acquire(self, claim: Claim) -> Granted | Refused:
        answers = {node: self._ask(node.try_claim(claim)) for node in self._awake()}
        self._track(claim, answers)
        timeout = self._vote_timeout(claim)
        voters = await self._collect(answers, lambda vote: isinstance(vote, Granted), timeout)
        if len(voters) >= self.quorum:
            fence = max(vote.fence for vote in voters.values() if isinstance(vote, Granted))
            if await self._raise_fence(claim, fence, list(voters), timeout):
                return Granted(fence)
        for node, answer in answers.items():
            self._tasks.start(self._release_on(node, claim, answer))
        if len(voters) >= self.quorum:
            raise NoMajority("a majority granted the lock and was gone before it stored the fence")
        return self._refusal(answers)

    async def extend(self, claims: Sequence[Claim]) -> list[bool | None]:
        answers = {node: self._ask(node.extend(claims)) for node in self._nodes}
        waiting: Collection[asyncio.Task[list[bool | None]]] = answers.values()
        # None takes longer than its own timeout.
        while waiting and len(answers) - len(waiting) < self.quorum:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        # Renewals are not urgent: count every node that answers in time, as one that lags for one
        # lease may be needed for the next.
        if waiting:
            await asyncio.wait(waiting, timeout=min(self._vote_timeout(claim) for claim in claims))
        ballots = [task.result() for task in answers.values() if _answered(task)]
        return [
            self._verdict([ballot[position] for ballot in ballots])
            for position in range(len(claims))
        ]

    async def release(self, claim: Claim) -> Released:
        unsettled = self._unsettled.get(claim.token, {})
        answers = {
            node: self._tasks.start(self._release_on(node, claim, unsettled.get(node)))
            for node in self._nodes
        }
        confirmed = await self._collect(
            answers, lambda released: released.confirmed, self._node_timeout
        )
        return Released(
            confirmed=len(confirmed) >= self.quorum,
            listeners=max((released.listeners for released in confirmed.values()), default=0),
        )

    def release_later(self, claim: Claim) -> None:
        for node in self._nodes:
            node.release_later(claim)

    async def check_nodes(self) -> bool:
        await asyncio.gather(*(node.check_nodes() for node in self._nodes))
        return False

    async def probe(self, *, listening: bool) -> bool:
        probes = (node.probe(listening=listening) for node in self._nodes)
        outcomes = await asyncio.gather(*probes, return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if len(self._nodes) - len(failures) < self.quorum:
            raise ServerRefused("; ".join(str(f) or repr(f) for f in failures))
        return outcomes.count(True) >= self.quorum

    @property
    def clients(self) -> Sequence[RedisClient]:
        return [client for node in self._nodes for client in node.clients]

    @property
    def channel_prefix(self) -> str:
        return self._nodes[0].channel_prefix

    async def close(self) -> None:
        await self._tasks.stop(2 * self._settle_timeout)

    def _ask(self, question: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._tasks.start(question)
        task.add_done_callback(_take_note)  # an error that comes late has nobody to be raised to
        return task

    def _awake(self) -> list[Node]:
        """The nodes to ask: without those that failed just now, if the others are enough."""
        awake = [node for node in self._nodes if not node.is_resting]
        return awake if len(awake) >= self.quorum else self._nodes

    def _vote_timeout(self, claim: Claim) -> float:
        return min(self._node_timeout, self._ttl_share * claim.ttl)

    def _track(self, claim: Claim, answers: Answers[Granted | Refused]) -> None:
        unsettled = self._unsettled[claim.token] = dict(answers)

        def settled(node: Node, _: asyncio.Task[Granted | Refused]) -> None:
            del unsettled[node]
            if not unsettled:
                del self._unsettled[claim.token]

        for node, task in answers.items():
            task.add_done_callback(partial(settled, node))

    async def _collect(
        self, answers: Answers[T], counts: Callable[[T], bool], seconds: float
    ) -> dict[Node, T]:
        """The answers that count, as soon as they are a majority or can no longer become one."""
        deadline = time.monotonic() + seconds
        paused = False
        while True:
            good = {
                node: answer
                for node, task in answers.items()
                if _answered(task) and counts(answer := task.result())
            }
            waiting = [task for task in answers.values() if not task.done()]
            left = deadline - time.monotonic()
            decided = len(good) >= self.quorum or len(good) + len(waiting) < self.quorum
            if decided or not waiting or left <= 0:
                return good
            await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            # If this process was suspended, its servers were not silent: their answers have arrived
            # meanwhile, and are still to be read.
            late = time.monotonic() - deadline
            if late > _PAUSE and not paused:
                deadline, paused = time.monotonic() + seconds, True

    async def _raise_fence(
        self, claim: Claim, fence: int, voters: Sequence[Node], seconds: float
    ) -> bool:
        answers = {node: self._ask(node.raise_fence(claim, fence)) for node in voters}
        return len(await self._collect(answers, bool, seconds)) >= self.quorum

    async def _release_on(
        self, node: Node, claim: Claim, acquire: asyncio.Task[Granted | Refused] | None
    ) -> Released:
        """Release on one node, however long that takes, once the acquire has ended there."""
        if acquire is not None:
            await asyncio.wait([acquire])
            if _left_nothing(acquire):
                return Released(confirmed=False, listeners=0)
        if node in self._awake():
            return await node.release(claim)
        node.release_later(claim)
        return Released(confirmed=False, listeners=0)

    def _refusal(self, answers: Answers[Granted | Refused]) -> Refused:
        votes = [task.result() for task in answers.values() if _answered(task)]
        if len(votes) < self.quorum:
            errors = [error for task in answers.values() if (error := _error(task)) is not None]
            refused = [error for error in errors if is_refusal(error)]
            if len(self._nodes) - len(refused) < self.quorum:
                raise refused[0]
            why = next((error for error in errors if not may_be_granted(error)), None)
            raise NoMajority(self._silent(len(self._nodes) - len(votes), why))
        refusals = [vote for vote in votes if isinstance(vote, Refused)]
        held = sum(refusal.reason is Reason.HELD for refusal in refusals)
        waits = sorted(vote.retry_after if isinstance(vote, Refused) else 0.0 for vote in votes)
        needed = waits[self.quorum - 1]
        if held >= self.quorum:
            return Refused(Reason.HELD, needed)
        if any(refusal.reason is Reason.QUARANTINE for refusal in refusals) and held == 0:
            return Refused(Reason.QUARANTINE, needed)
        return Refused(Reason.SPLIT, needed)

    def _silent(self, number: int, why: object) -> str:
        reason = f": {why}" if why else ""
        return f"{number} of {len(self._nodes)} lock servers did not answer in time{reason}"

    def _verdict(self, ballots: Sequence[bool | None]) -> bool | None:
        if sum(ballot is True for ballot in ballots) >= self.quorum:
            return True
        # Nodes that say no cannot change their minds; when the rest is no majority, it is lost.
        refused = sum(ballot is False for ballot in ballots)
        return False if refused > len(self._nodes) - self.quorum else None


def _answered(task: asyncio.Task[T]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _take_note(task: asyncio.Task[Any]) -> None:
    _error(task)


def _error(task: asyncio.Task[Any]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


def _left_nothing(acquire: asyncio.Task[Granted | Refused]) -> bool:
    """Whether a node certainly has no claim, so that there is nothing to undo."""
    if _answered(acquire):
        return isinstance(acquire.result(), Refused)
    error = _error(acquire)
    return error is not None and not may_be_granted(error)
