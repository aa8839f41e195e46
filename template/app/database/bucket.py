"""Objects in a bucket, with bounded waits and conditional writes.

Nothing in S3 spans two objects, and nothing locks one. What keeps writers from undoing each other's
work are conditions: write if the object does not exist yet, or if it still is what was read. Some
servers ignore conditions without a word, so the first write makes sure that this one does not.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from app.database.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from obstore import PutMode

# obstore's errors have neither the status nor the code of an answer but in their text.
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_TRANSIENT = {
    # Another request was in the way, or there were too many.
    *("ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown"),
    # The login is not, or not yet, what the server knows: as a database that refuses connections.
    *("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed"),
    *("SignatureDoesNotMatch", "TokenRefreshRequired"),
}
_TRANSIENT_STATUSES = {401, 408, 409, 425, 429}
_FAULTS = {"AccessDenied", "MethodNotAllowed", "NotImplemented"}
_PROBE = "conditional-writes"
"""An object that shows whether the server heeds conditions."""
# Seconds in which the threads of obstore let go of the last results. A process that ends before
# they have is aborted, now and then (PyO3/pyo3-async-runtimes#40).
_SETTLE = 0.1
_NO_OBJECT_HAS_THIS = '"00000000000000000000000000000000"'


class Stored(NamedTuple):
    """An object as it was read."""

    body: bytes
    etag: str
    """Changes with the object; as the server wrote it, in quotation marks."""


class Conflict(Exception):
    """The condition of a write does not hold: somebody else wrote the object first."""


class Bucket:
    """The objects under one prefix of a bucket. Leaving it waits for the requests under way.

    Every method raises DatabaseUnavailable when S3 does not answer, fails, or does not let us in.
    Whether a write took place is not known then; none is repeated here. What would fail again, such
    as for want of a right, is raised as obstore does.
    """

    def __init__(
        self, store: S3Store, *, name: str, pool_size: int, pool_timeout: float, timeout: float
    ) -> None:
        """Wrap a store; all times in seconds.

        Args:
            store: makes the requests, without retries.
            name: of the bucket, for messages.
            pool_size: requests at a time.
            pool_timeout: the longest a request waits for its turn.
            timeout: the longest that `deadline` allows.
        """
        self._store = store
        self._name = name
        self._pool_size = pool_size
        self._pool_timeout = pool_timeout
        self._timeout = timeout
        self._turns = asyncio.Semaphore(pool_size)
        self._probed = asyncio.Lock()
        self._quoted: bool | None = None
        """Whether conditions name the ETag with its quotation marks; None: not known yet."""

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Bounds what its body takes, however many requests that is."""
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                yield
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise DatabaseUnavailable(f"no answer within {self._timeout} s") from error

    async def get(self, key: str) -> Stored | None:
        try:
            async with self._request() as store:
                found = await store.get_async(key)
                body = bytes(await found.bytes_async())
        except FileNotFoundError:
            return None
        return Stored(body, found.meta["e_tag"] or "")

    async def get_many(self, keys: Iterable[str]) -> list[Stored | None]:
        """Read several, in the order of `keys`; as many at a time as the pool allows."""
        found: dict[str, Stored | None] = dict.fromkeys(keys)
        waiting = iter(list(found))

        async def read() -> None:
            for key in waiting:
                found[key] = await self.get(key)

        try:
            async with asyncio.TaskGroup() as readers:
                for _ in range(min(self._pool_size, len(found))):
                    readers.create_task(read())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        return list(found.values())

    async def exists(self, key: str) -> bool:
        try:
            async with self._request() as store:
                await store.head_async(key)
        except FileNotFoundError:
            return False
        return True

    async def keys(self, prefix: str, *, after: str | None, limit: int) -> list[str]:
        """The first keys with this prefix that come after `after`, in order; `limit` at most."""
        async with self._request() as store:
            async for page in store.list(prefix, offset=after, chunk_size=limit):
                return [found["path"] for found in page]
        return []

    async def create(self, key: str, body: bytes) -> None:
        """Write a new object.

        Raises:
            Conflict: there is one already.
        """
        await self._probe()
        await self._put(key, body, "create")

    async def replace(self, key: str, body: bytes, *, etag: str) -> None:
        """Write an object that is still as it was read.

        Raises:
            Conflict: it was changed or deleted meanwhile.
        """
        await self._probe()
        await self._put(key, body, {"e_tag": etag if self._quoted else etag.strip('"')})

    async def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        with suppress(FileNotFoundError):
            async with self._request() as store:
                await store.delete_async(key)

    async def ping(self) -> None:
        """Make sure that the bucket is there, and safe to write to."""
        async with self.deadline():
            if not (self._quoted is not None and await self.exists(_PROBE)):
                self._quoted = None
                await self._probe()

    def is_transient(self, error: BaseException) -> bool:
        """Whether what has raised `error` would succeed later, as it is."""
        return isinstance(error, DatabaseUnavailable) or (
            isinstance(error, BaseError) and _is_transient(error)
        )

    async def _probe(self) -> None:
        """Learn, once, whether and how this server heeds conditions."""
        if self._quoted is not None:
            return
        async with self._probed:
            if self._quoted is not None:
                return
            with suppress(Conflict):
                await self._put(_PROBE, b"", "create")
            if await self._accepts("create") or await self._accepts({"e_tag": _NO_OBJECT_HAS_THIS}):
                raise DatabaseUnavailable(
                    "this S3 server ignores the conditions of writes (If-None-Match, If-Match), so "
                    "that changes would get lost: use one that heeds them"
                )
            probe = await self.get(_PROBE)
            etag = probe.etag if probe else ""
            # The quotation marks belong to an ETag, but not all servers expect them back.
            if await self._accepts({"e_tag": etag}):
                self._quoted = True
            elif await self._accepts({"e_tag": etag.strip('"')}):
                self._quoted = False
            else:
                raise DatabaseUnavailable("this S3 server refuses to replace what was just read")

    async def _accepts(self, condition: "PutMode") -> bool:
        try:
            await self._put(_PROBE, b"", condition)
        except Conflict:
            return False
        return True

    async def _put(self, key: str, body: bytes, condition: "PutMode") -> None:
        async with self._request() as store:
            try:
                await store.put_async(key, body, mode=condition)
            except (AlreadyExistsError, PreconditionError) as error:
                raise Conflict(key) from error

    @asynccontextmanager
    async def _request(self) -> AsyncIterator[S3Store]:
        """One of the turns, in which an outage, and no bucket, raise DatabaseUnavailable."""
        try:
            async with asyncio.timeout(self._pool_timeout):
                await self._turns.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable(
                f"{self._pool_size} requests to S3 were under way for {self._pool_timeout} s"
            ) from error
        try:
            yield self._store
        except (BaseError, FileNotFoundError) as error:
            if "NoSuchBucket" in str(error):
                raise DatabaseUnavailable(f"there is no bucket {self._name!r}") from error
            if isinstance(error, FileNotFoundError) or not _is_transient(error):
                raise
            raise DatabaseUnavailable(str(error).partition("\n")[0]) from error
        finally:
            self._turns.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                for _ in range(self._pool_size):
                    await self._turns.acquire()
        await asyncio.sleep(_SETTLE)


def _is_transient(error: BaseError) -> bool:
    """By the code of the answer, if there was one, else by its status."""
    answer = str(error)
    code, status = _CODE.search(answer), _STATUS.search(answer)
    if code is not None and code[1] in _TRANSIENT | _FAULTS:
        return code[1] in _TRANSIENT
    if status is None or (status[1] == "403" and code is None):
        return True  # no answer; or one to HEAD, which does not say whether it is about the login
    number = int(status[1])
    return number in _TRANSIENT_STATUSES or (number >= 500 and number != 501)
