"""What a pool does about connections that are no longer good, and what errors say about them."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from time import monotonic
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from app.database.errors import DatabaseUnavailable
from app.database.retry import TransactionUndone

RECYCLE = 230
"""Seconds after which a connection is replaced. The load balancers of the clouds forget those that
say nothing for four minutes (Azure) or 350 seconds (AWS), without telling either side."""
UNDONE = "app_undone"
"""Where a connection notes why its transaction was undone."""
PING = 1.0
"""Seconds that a connection from the pool has to show that it lives."""
# Seconds without traffic after which the system asks whether the other side is there, seconds
# between the questions, and questions without an answer after which it is not.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


class Verdict(Enum):
    """What an error means to those who asked."""

    FAULT = auto()
    """The statement is wrong, or breaks a rule: it would fail again."""
    TRANSIENT = auto()
    """An outage: the same would succeed later."""
    UNDONE = auto()
    """Transient, and the transaction was undone as a whole: it may be repeated at once."""
    GONE = auto()
    """Transient, but neither this connection nor an older one is of use any more."""


@dataclass(frozen=True, slots=True)
class Driver:
    """What the databases have each for themselves."""

    judge: Callable[[BaseException], Verdict]
    """Says by the code of an error, as the driver has raised it, what it means."""
    ping: Callable[[Any], Awaitable[object]] | None = None
    """Asks the server for a sign of life, in one round trip; None: there is no server."""
    abort: Callable[[Any], object] = lambda _: None
    """Closes a connection at once, whatever it is doing, without a word to the server."""
    leave: Callable[[Any], object] | None = None
    """Takes leave of a server that would complain otherwise, and waits for nothing; None: none
    does, and `abort` will do."""
    advice: Callable[[BaseException], str] = lambda _: ""
    """What to do about an error, where that is known."""
    identity: str | None = None
    """A query for what a database has in common with its replicas, and with no other one."""


class Watch:
    """Has the pool of `engine` notice dead peers and failovers, and errors say what they mean.

    Transient errors are raised as DatabaseUnavailable from now on, also from statements that are
    executed without a `Database`; all others are raised as ever.
    """

    def __init__(self, engine: AsyncEngine, driver: Driver) -> None:
        self._driver = driver
        self.closing = False
        """Whether there is time for farewells: nobody waits for the next connection."""
        listen = partial(event.listen, engine.sync_engine)
        listen("handle_error", self._translate)
        self._last_loss = float("-inf")
        listen("close", self._close)
        listen("invalidate", self._suspect)
        if driver.ping is not None:
            listen("connect", self._begin)
            listen("checkout", self._try_out)

    def _translate(self, context: ExceptionContext) -> BaseException | None:
        error = context.original_exception
        if not isinstance(error, Exception):
            return None  # the request was cancelled
        verdict = self._driver.judge(error)
        if verdict is Verdict.GONE and self._driver.ping is None and context.connection is not None:
            # A file that is closed within a transaction may stay locked: it is closed after it.
            context.connection.connection.invalidate(soft=True)
        elif verdict is Verdict.GONE:
            # SQLAlchemy then closes this connection, and the older ones before they are used again.
            context.is_disconnect = True
        elif isinstance(error, OSError) and context.connection is not None:
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False  # the others may be fine
        message = describe(error) + self._driver.advice(error)
        if verdict is Verdict.UNDONE and not context.is_disconnect:
            if context.connection is not None:
                context.connection.info[UNDONE] = message
            return TransactionUndone(message)
        # Whatever it is, such as a wrong password: without a connection, nothing was asked yet.
        if verdict is not Verdict.FAULT or context.is_disconnect or context.connection is None:
            return DatabaseUnavailable(message)
        return None

    def _begin(self, connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["new"] = True
        record.info["made"] = monotonic()
        _keep_alive(connection.driver_connection)

    def _try_out(self, connection: Any, record: ConnectionPoolEntry, _: object) -> None:
        if record.info.pop("new", False):
            return
        try:
            connection.run_async(self._ping)
        except Exception as error:
            # SQLAlchemy makes a new one in its place, and drops those that are older.
            raise InvalidatePoolError from error

    async def _ping(self, connection: Any) -> None:
        assert self._driver.ping is not None
        # Not a timeout: drivers ask the server to cancel what was not answered in time.
        impatience = asyncio.get_running_loop().call_later(PING, self._driver.abort, connection)
        try:
            await self._driver.ping(connection)
        finally:
            impatience.cancel()

    def _close(self, connection: Any, record: ConnectionPoolEntry) -> None:
        if self.closing:
            return
        # Only of age, or is it what has been lost, or as old as that?
        is_fine = record.info.get("made", self._last_loss) > self._last_loss
        close = self._driver.leave if is_fine and self._driver.leave else self._driver.abort
        close(connection.driver_connection)

    def _suspect(self, *_: object) -> None:
        self._last_loss = monotonic()


def _keep_alive(connection: Any) -> None:
    """Have the system look whether the server is there, and tell balancers that the line is."""
    transport = getattr(connection, "_transport", None)
    wire = transport and transport.get_extra_info("socket")
    if wire is None or wire.family not in (socket.AF_INET, socket.AF_INET6):
        return
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:  # Linux has all of them
            wire.setsockopt(socket.IPPROTO_TCP, option, value)


def describe(error: BaseException) -> str:
    """One line, without the statement and its parameters: those may be nobody's business."""
    if isinstance(error, DBAPIError):
        error = error.orig or error
    cause = error.__cause__ or error  # SQLAlchemy may have wrapped it once more
    text = str(cause).partition("\n")[0]
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__
