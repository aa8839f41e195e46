"""Callers that are waiting at the same moment share one round trip.

redis-py spends about 50 microseconds of CPU per command, nearly all of it on the bookkeeping of
one asyncio command. This is a data loader (https://github.com/graphql/dataloader): what is asked
while a batch is under way forms the next one. However many callers there are, they need one
connection, and a thousand of them cost a few round trips. A lone caller is served at once, so low
load pays nothing for it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import chain
from time import perf_counter
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.implementations import PooledConnection, current
from app.core.redis.clients import RedisClient
from app.core.redis.cluster import FairCluster
from app.core.redis.outages import reply_code
from app.core.redis.pool import FairPool, PoolTimeout

Q = TypeVar("Q")
A = TypeVar("A")
Batch = list[tuple[Sequence[Q], asyncio.Future[list[A]]]]
"""The questions of each caller, and the future of its answers."""

Keys = Sequence[bytes]
Values = list[bytes | None]

# A stalled event loop finds its timer due and the reply readable at the same moment. Two more turns
# of the loop let the reply win, so that a busy process does not take itself for a slow server.
_GRACE_TURNS = 2
# A timer that is this late, in seconds, means that the loop stood still: the server could not be
# heard meanwhile, and a long reply takes many turns of the loop to read.
_STALL = 0.02


class Batcher(ABC, Generic[Q, A]):
    """A queue in front of Redis: one batch is under way, those who come meanwhile form the next."""

    hopeless: ClassVar[tuple[type[RedisError], ...]]
    """Errors of a batch that also fail those who queued behind it: they have waited long enough."""

    def __init__(
        self, client: RedisClient, *, size: Callable[[Sequence[Q]], float], limit: float
    ) -> None:
        """Fill batches up to `limit`; larger questions of one caller have a batch of their own."""
        self._client = client
        self._connections = current().connections
        self._connection: PooledConnection | None = None
        self._size = size
        self._limit = limit
        self._waiting: Batch[Q, A] = []
        self._busy = False
        self._sender: asyncio.Task[None] | None = None

    async def _ask(self, questions: Sequence[Q]) -> list[A]:
        """Return an answer to each question; those of one call are in the same batch."""
        if not questions:
            return []
        if self._busy:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((questions, future))
            answers: list[A] = await future
            return answers
        self._busy = True
        try:
            return await self._exchange(questions)
        except self.hopeless as error:
            self._fail_waiting(error)
            raise
        finally:
            if self._waiting:
                self._sender = asyncio.get_running_loop().create_task(self._send_batches())
            else:
                self._busy = False
                await self._release()

    @abstractmethod
    async def _exchange(self, questions: Sequence[Q]) -> list[A]:
        """Make a round trip for one caller."""

    @abstractmethod
    async def _share(self, batch: Batch[Q, A]) -> list[list[A]]:
        """Make a round trip for several callers, and return the answers to each."""

    async def _open(self, pool: ConnectionPool) -> PooledConnection:
        """Return the connection of the batch before, if it may stay, or one of the pool."""
        if self._connection is not None and not self._connection.may_stay:
            await self._release()
        if self._connection is None:
            self._connection = await self._connections.open(pool)
        return self._connection

    async def _release(self) -> None:
        """Give back the connection that was kept for the next batch: nobody waits any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _send_batches(self) -> None:
        try:
            while self._waiting:
                batch = self._take_batch()
                try:
                    answers = await self._share(batch)
                except BaseException as error:
                    fail_all((future for _, future in batch), error)
                    if isinstance(error, self.hopeless):
                        self._fail_waiting(error)
                    elif not isinstance(error, RedisError):
                        raise
                    continue
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
                if len(self._waiting) < len(batch) // 2:
                    # Those who were answered may have another question: a turn of the loop lets
                    # them ask before the few who are waiting go alone.
                    await asyncio.sleep(0)
        finally:
            self._busy = False
            if self._waiting:  # the task itself was cancelled, as at shutdown
                self._fail_waiting(RedisConnectionError("the queue of commands was stopped"))
            await self._release()

    def _take_batch(self) -> Batch[Q, A]:
        size = 0.0
        for count, (questions, _) in enumerate(self._waiting):
            size += self._size(questions)
            if size > self._limit and count:
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
                return batch
        batch, self._waiting = self._waiting, []
        return batch

    def _fail_waiting(self, error: RedisError) -> None:
        waiting, self._waiting = self._waiting, []
        fail_all((future for _, future in waiting), error)


class BatchReader(Batcher[bytes, bytes | None]):
    """Reads keys, many readers to a command and one command at a time."""

    hopeless = (RedisConnectionError, RedisTimeoutError)

    def __init__(
        self,
        client: RedisClient,
        *,
        timeout: float,
        max_keys: int = 512,
        observe: Callable[[float], object] = lambda _: None,
    ) -> None:
        """Read from the server of `client`.

        Args:
            client: gives the connections, which are used without its retries and callbacks.
            timeout: the maximum duration of a batch, in seconds.
            max_keys: the maximum of one command; a reader with more keys has a command of its own.
            observe: is called with the duration in seconds of each batch that was answered.
        """
        super().__init__(client, size=len, limit=max_keys)
        self._timeout = timeout
        self._observe = observe
        self._is_queueing = False

    def read(self, keys: Keys) -> Coroutine[Any, Any, Values]:
        """Return the values of `keys`, None for those that do not exist or are not strings.

        Raises:
            RedisError: the batch failed; every reader of it gets an error of its own.
        """
        return self._ask(keys)  # without a coroutine of its own, which every read would pay for

    async def _share(self, batch: Batch[bytes, bytes | None]) -> list[Values]:
        # The keys of a reader that was cancelled are not worth reading.
        asked = (keys for keys, future in batch if not future.done())
        wanted = list(dict.fromkeys(chain.from_iterable(asked)))
        found = await self._exchange(wanted) if wanted else []
        values = dict(zip(wanted, found, strict=True))
        return [[values.get(key) for key in keys] for keys, _ in batch]

    async def _exchange(self, keys: Keys) -> Values:
        started = perf_counter()
        try:
            with Deadline(self._timeout):
                values = await self._command(keys)
        except TimeoutError:
            if self._is_queueing:  # a full pool says nothing about the server
                raise PoolTimeout(f"no connection came free within {self._timeout} s") from None
            if isinstance(self._client, FairCluster):
                self._client.rediscover()
            raise RedisTimeoutError(f"no reply within {self._timeout} s") from None
        self._observe(perf_counter() - started)
        return values

    async def _command(self, keys: Keys) -> Values:
        if not isinstance(self._client, RedisCluster):
            return await self._mget(self._client, keys)
        # One write per node: MGET cannot cross slots.
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        self._is_queueing = isinstance(self._client, FairCluster) and self._client.is_exhausted
        replies = await pipeline.execute(raise_on_error=False)
        self._is_queueing = False
        return [_value(reply) for reply in replies]

    async def _mget(self, client: Redis, keys: Keys) -> Values:
        # MGET also for one key: GET has an error for what is not a string, MGET has nil.
        pool = client.connection_pool
        self._is_queueing = isinstance(pool, FairPool) and pool.is_exhausted
        connection = await self._open(pool)
        self._is_queueing = False
        (values,) = await connection.ask(_packed(keys))
        if isinstance(values, Exception):
            raise values
        return cast(Values, values)  # the pool's connections do not decode


def _packed(keys: Keys) -> bytes:
    """Return an MGET in the protocol of Redis."""
    parts = [b"$%d\r\n%b\r\n" % (len(key), key) for key in keys]
    return b"*%d\r\n$4\r\nMGET\r\n%b" % (len(keys) + 1, b"".join(parts))


def _value(reply: bytes | Exception | None) -> bytes | None:
    if isinstance(reply, Exception):
        if reply_code(reply) != "WRONGTYPE":
            raise reply
        return None
    return reply


class Deadline:
    """Raises TimeoutError if something takes too long, unless the event loop itself stood still."""

    __slots__ = ("_cancelled_before", "_due", "_expired", "_loop", "_task", "_timeout", "_timer")

    def __init__(self, timeout: float) -> None:
        """`timeout` is in seconds, and begins when the block is entered."""
        self._timeout = timeout
        self._expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelled_before = task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + self._timeout
        self._timer: asyncio.Handle | None = self._loop.call_at(self._due, self._expire)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # breaks a reference cycle
        # Take the cancellation back even if the block ended all the same: up to Python 3.11,
        # `wait_for` swallows the cancellation of what has just finished.
        is_ours = self._expired and self._task.uncancel() <= self._cancelled_before
        if is_ours and exc_type is asyncio.CancelledError:
            raise TimeoutError from None

    def _expire(self) -> None:
        late = self._loop.time() - self._due
        if late > _STALL:
            self._due = self._loop.time() + min(late, self._timeout)
            self._timer = self._loop.call_at(self._due, self._expire)
        else:
            self._last_turns(_GRACE_TURNS)

    def _last_turns(self, left: int) -> None:
        if left:
            self._timer = self._loop.call_soon(self._last_turns, left - 1)
        else:
            self._expired = True
            self._task.cancel()


def fail_all(futures: Iterable[asyncio.Future[Any]], error: BaseException) -> None:
    """Fail those who still wait for one of `futures`."""
    for future in futures:
        if not future.done():
            future.set_exception(_own(error))


def _own(error: BaseException) -> RedisError:
    """Copy an error, because each raise adds to the traceback of its object."""
    if not isinstance(error, RedisError):
        return RedisConnectionError(f"the batch was given up: {error!r}")
    own = type(error).__new__(type(error), *error.args)
    own.__dict__.update(error.__dict__)
    return own
