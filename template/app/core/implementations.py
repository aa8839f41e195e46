"""What fast paths may replace: each has an ordinary implementation here, which is always there.

A fast path (`app/core/fastpath/`) knows the insides of uvicorn, FastAPI or redis-py. Everything
else asks here, when it is made, what to use, and gets the ordinary implementation where a fast path
is off, does not know the version that is installed, or was deleted with its folder.
"""

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Self

import structlog
from fastapi import APIRouter, Response
from fastapi.routing import RouteContext
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ResponseError

from app.core.responses import ResponseSender

log = structlog.get_logger(__name__)

_FASTPATH = "app.core.fastpath"


class Prerouter:
    """How a request reaches a cached route that the middleware has found already."""

    def install(self, router: APIRouter) -> None:
        """Make a router take what `target` returns. Here, it finds each route again."""

    def target(
        self, context: RouteContext, endpoint: Callable[..., Awaitable[Response]]
    ) -> object | None:
        """Return a shorter way to a route than FastAPI's, or None if there is none.

        Requests carry it in their scope. `endpoint` is the function of the route.
        """
        return None


class PooledConnection:
    """A connection of a pool, for one write of commands after the other."""

    def __init__(self, pool: ConnectionPool, connection: AbstractConnection) -> None:
        self._pool = pool
        self._connection = connection

    @classmethod
    async def open(cls, pool: ConnectionPool) -> Self:
        """Take a connection from its pool.

        Raises:
            PoolTimeout: none came free in time.
            RedisError: it could not be made.
        """
        return cls(pool, await pool.get_connection())

    async def close(self) -> None:
        """Give it back."""
        await self._pool.release(self._connection)

    @property
    def may_stay(self) -> bool:
        """Whether it is good for another command, and the pool has others to give."""
        return False

    @property
    def timeout(self) -> float:
        """Seconds that it may wait for a reply."""
        return self._connection.socket_timeout or math.inf

    def pack(self, commands: Iterable[tuple[Any, ...]]) -> bytes:
        """Return commands in the protocol of Redis."""
        return b"".join(self._connection.pack_commands(commands))

    async def ask(self, commands: bytes, count: int = 1) -> list[Any]:
        """Return the replies to `count` packed commands, however long they take.

        Those that are errors are among them. Cut short, it ends the connection: the next commands
        would get the replies of these.

        Raises:
            RedisError: the connection was lost, or the server is not ready for commands.
        """
        await self._connection.send_packed_command(commands, check_health=False)
        return [await self._read() for _ in range(count)]

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error


class Connections:
    """How connections of redis-py are used."""

    async def open(self, pool: ConnectionPool) -> PooledConnection:
        """Take a connection from its pool; see `PooledConnection.open`."""
        return await PooledConnection.open(pool)

    def is_ready(self, pool: ConnectionPool, connection: AbstractConnection) -> bool:
        """Whether a pool would hand out this idle connection as it is. Here, the pool looks."""
        return False

    def may_rest(self, pool: ConnectionPool, connection: AbstractConnection) -> bool:
        """Whether a pool would only put this connection back. Here, the pool looks."""
        return False

    def is_closing(self, connection: AbstractConnection) -> bool:
        """Whether a connection has ended. Here, the next command finds out."""
        return False


@dataclass(frozen=True, slots=True)
class Implementations:
    """One implementation for each thing that has a fast path."""

    response_sender: type[ResponseSender] = ResponseSender
    prerouter: Prerouter = field(default_factory=Prerouter)
    connections: Connections = field(default_factory=Connections)


_chosen: Implementations | None = None


def current() -> Implementations:
    """Return what everything uses that is made now: fast paths, unless `choose` was told not to.

    A process that has not chosen, such as a tool, is told nothing of it.
    """
    return _chosen or _choose(fast=True)[0]


def choose(*, fast: bool = True) -> Implementations:
    """Decide what everything uses that is made from now on, and log it in one line.

    The log names the fast paths that are on, and why each of the others is off.
    """
    chosen, on, off = _choose(fast=fast)
    # One that is off is news to whoever operates the service; a choice is not.
    tell = log.warning if off and "all" not in off else log.info
    tell("fastpath.chosen", on=on, off=off)
    return chosen


def _choose(*, fast: bool) -> tuple[Implementations, list[str], dict[str, str]]:
    global _chosen
    on: dict[str, dict[str, Any]] = {}
    off: dict[str, str] = {}
    spec = find_spec(_FASTPATH)
    if not fast:
        off["all"] = "FASTPATH=off"
    elif spec is None or spec.origin is None:  # a folder may be left that has no modules
        off["all"] = f"{_FASTPATH} is not there"
    else:
        on, off = import_module(_FASTPATH).known()
    _chosen = Implementations(**{name: one for part in on.values() for name, one in part.items()})
    return _chosen, sorted(on), off
