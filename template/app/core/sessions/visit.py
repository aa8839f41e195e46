"""What a request and its session have in common: how far it was opened."""

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from app.core.sessions.csrf import check_source, check_token, given_token
from app.core.sessions.manager import Sessions
from app.core.sessions.session import Session

VISIT = "app.visit"
"""In the scope: the visit that a request is."""


@dataclass(slots=True)
class Visit:
    """One request. Its session is None until something asks for it."""

    sessions: Sessions
    session: Session | None = None
    renames: bool = False
    """Whether the session came with a cookie of the old name."""
    proven: bool = False
    """Whether the request needs no token any more."""

    async def open(self, connection: HTTPConnection, *, with_token: bool = True) -> Session:
        """The request's session, the same one each time.

        Args:
            connection: the request.
            with_token: a write has to bring the token of a session that is known.

        Raises:
            HTTPException, WebSocketException: it is a write that another site may have sent.
            RedisError: Redis did not answer.
        """
        if self.session is None:
            cookie = self.sessions.cookie
            trusted = self.sessions.trusted_origins
            check_source(connection, trusted, cookie.is_plain(connection))
            session = await self.sessions.open(cookie.read(connection))
            if not session.is_known and self.sessions.takes_old_cookies:
                session = await self._open_old(connection) or session
            self.session, self.proven = session, not session.is_known
        if with_token and not self.proven:
            given = await given_token(connection)
            check_token(connection, self.session.csrf_token, given)
            self.proven = True
        return self.session

    async def _open_old(self, connection: HTTPConnection) -> Session | None:
        """The session of a cookie with the old name, if it is one of this service."""
        if (given := self.sessions.cookie.read_old(connection)) is None:
            return None
        session = await self.sessions.open(given)
        if not session.is_known:
            return None
        session.send_cookie()
        self.renames = True
        return session
