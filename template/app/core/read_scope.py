"""Which reads of a database may be answered by a replica, which may be behind.

None, unless somebody says so: `reads_may_lag()` does, for its body, and `LaggingReads` for requests
that only ask. In that body reads are up to date again as soon as something depends on it: after a
write, under a lock, and in what the cache loads. A value that is behind would be kept after the
invalidation that should have removed it, and be served for all of its ttl.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send

_ASKING = {"GET", "HEAD", "OPTIONS", "QUERY"}


class ReadScope:
    """Shared by all tasks that a scope starts, so that a write of one is known to all."""

    __slots__ = ("may_lag",)

    def __init__(self) -> None:
        """Begin as a scope that has written nothing."""
        self.may_lag = True


READ_SCOPE: ContextVar[ReadScope | None] = ContextVar("read_scope", default=None)
"""None: reads are up to date."""


@contextmanager
def reads_may_lag() -> Iterator[None]:
    """Let reads be as far behind as a replica is, until the body writes."""
    token = READ_SCOPE.set(ReadScope())
    try:
        yield
    finally:
        READ_SCOPE.reset(token)


def read_fresh() -> None:
    """Have reads be up to date, from now to the end of the body of `reads_may_lag`."""
    scope = READ_SCOPE.get()
    if scope is not None:
        scope.may_lag = False


def may_lag() -> bool:
    """Return whether a read may be behind."""
    scope = READ_SCOPE.get()
    return scope is not None and scope.may_lag


class LaggingReads:
    """A middleware: the reads of requests that only ask may be behind, those of others may not.

    What a request reads that is about to write decides what it writes.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Stand around `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http" and scope["method"] in _ASKING:
            with reads_may_lag():
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)
