"""Connections that go without what a server or a proxy does not have, and tell what it refuses.

The connections of one client share what they have learned: that there is no CLIENT SETNAME (then
they have no name), and since when the server is no longer the one that takes writes. A primary that
was demoted keeps its connections open, and answers READONLY for ever: they have to be made anew, by
a name that may lead to the new primary by now.
"""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection, Connection, DefaultParser, SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from app.core.redis.outages import is_refusal, reply_code
from app.core.redis.refusals import Refusals

log = structlog.get_logger(__name__)

# A URL that names a replica answers READONLY to every write: connecting once a second is enough.
_RECONNECT_AFTER = 1.0


class Learned:
    """What the connections of one client know of their server."""

    def __init__(self, client_name: str, refusals: Refusals) -> None:
        self.client_name: str | None = client_name
        self.refusals = refusals
        self.outdated_before = 0.0
        """Connections that were made before this moment (monotonic) are not to be used again."""
        self.met: Callable[[AbstractConnection], Awaitable[None]] | None = None
        """Is given each new connection before anybody else; an error ends the connection."""
        self._who = client_name

    def demoted(self) -> None:
        """The server does not take writes: is there another one by now?"""
        now = monotonic()
        if now - self.outdated_before >= _RECONNECT_AFTER:
            self.outdated_before = now

    def go_without(self, error: ResponseError) -> bool:
        """Give up what the server refused while a connection was made; False if it is needed."""
        if self.client_name is None or not is_refusal(error):
            return False
        self.client_name = None
        log.warning(
            "redis.goes_without",
            client=self._who,
            what="CLIENT SETNAME: CLIENT LIST does not say which connections are this service's",
            error=str(error),
        )
        return True


class _Parser(DefaultParser):  # type: ignore[valid-type,misc]  # a variable of redis-py
    """Shows every error to the connection first."""

    understand: Callable[[RedisError], RedisError]

    def parse_error(self, response: str) -> RedisError:
        error: RedisError = super().parse_error(response)
        return self.understand(error)


class LearningConnection(AbstractConnection):
    """A connection that shares what it learns with the others of its client."""

    def __init__(self, *, learned: Learned, **kwargs: Any) -> None:
        super().__init__(parser_class=_Parser, **kwargs)
        assert isinstance(self._parser, _Parser)
        self._parser.understand = self._understand
        self._learned = learned
        self._is_ready = False
        self._made = 0.0

    @property
    def is_outdated(self) -> bool:
        """Whether it leads to a server that has been demoted since."""
        return self._made < self._learned.outdated_before

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        self._is_ready = False
        self._made = monotonic()
        try:
            while True:
                self.client_name = self._learned.client_name
                try:
                    await super().on_connect_check_health(check_health)
                except ResponseError as error:
                    if not self._learned.go_without(error):
                        raise
                else:
                    break
            if self._learned.met is not None:
                await self._learned.met(self)
        except RedisError as error:
            self._learned.refusals.note(error)
            raise
        self._is_ready = True

    def _understand(self, error: RedisError) -> RedisError:
        if reply_code(error) == "READONLY":
            self._learned.demoted()
            if not isinstance(error, ReadOnlyError):  # a script before Redis 7 hides it
                error = ReadOnlyError(str(error), status_code="READONLY")
        if self._is_ready:
            self._learned.refusals.note(error)
        return error


class PlainConnection(LearningConnection, Connection):
    """To one server."""


class TlsConnection(LearningConnection, SSLConnection):
    """To one server, over TLS."""


class SentinelConnection(LearningConnection, SentinelManagedConnection):
    """To whichever server the sentinels call the primary."""


class SentinelTlsConnection(LearningConnection, SentinelManagedSSLConnection):
    """To whichever server the sentinels call the primary, over TLS."""
