"""What a request and its session have in common: how far it was opened."""

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from app.core.sessions import cookie
from app.core.sessions.csrf import check_source, check_token
from app.core.sessions.manager import Sessions
from app.core.sessions.session import Session

VISIT = "app.visit"
"""In the scope: the visit that a request is."""


@dataclass(slots=True)
class Visit:
    """One request. Its session is None until something asks for it."""

    sessions: Sessions
    session: Session | None = None

    async def open(self, connection: HTTPConnection) -> Session:
        """The request's session, the same one each time.

        Raises:
            HTTPException, WebSocketException: it is a write that another site may have sent.
            RedisError: Redis did not answer.
        """
        if self.session is None:
            check_source(connection, self.sessions.trusted_origins)
            plain = self.sessions.plain_on_loopback
            given = cookie.read(connection, plain_on_loopback=plain)
            session = await self.sessions.open(given)
            if session.is_known:
                check_token(connection, session.csrf_token)
            self.session = session
        return self.session
