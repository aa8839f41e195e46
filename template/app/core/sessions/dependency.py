"""The session of a request, opened for the routes that depend on it.

@router.get("/cart")
async def cart(session: SessionDependency) -> list[str]: ...

@router.get("/orders")
async def orders(user: UserDependency) -> list[Order]: ...  # 401 unless somebody is logged in
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from app.core.scope import PERSONALIZED_BY
from app.core.sessions.csrf import check_source, check_token, is_write
from app.core.sessions.session import Session
from app.core.sessions.sessions import Sessions

REQUEST_SESSION = "app.request_session"
"""In the scope: the `RequestSession` of a request."""


@dataclass(slots=True)
class RequestSession:
    """The session of one request. It is not loaded until something asks for it."""

    sessions: Sessions
    session: Session | None = None
    has_old_cookie: bool = False
    """Whether the session came with a cookie of the old name."""
    needs_token: bool = False
    """Whether the request is a write whose CSRF token has yet to be checked."""

    async def open(self, connection: HTTPConnection, *, with_token: bool = True) -> Session:
        """Return the request's session, the same one each time.

        Args:
            connection: the request.
            with_token: a write must bring the CSRF token of a session that is known.

        Raises:
            HTTPException, WebSocketException: it is a write that another site may have sent.
            RedisError: Redis did not answer.
        """
        if self.session is None:
            if writes := is_write(connection):
                check_source(
                    connection,
                    trusted=self.sessions.trusted_origins,
                    plain=self.sessions.cookie.is_plain(connection),
                )
            self.session = await self._load(connection)
            # A web socket cannot bring one: browsers let no page set a header for it.
            can_bring_token = connection.scope["type"] == "http"
            self.needs_token = writes and can_bring_token and self.session.is_known
        if with_token and self.needs_token:
            await check_token(connection, self.session.csrf_token)
            self.needs_token = False
        return self.session

    async def _load(self, connection: HTTPConnection) -> Session:
        session = await self.sessions.open(self.sessions.cookie.read(connection))
        if session.is_known or not self.sessions.accepts_old_cookies:
            return session
        if (old_id := self.sessions.cookie.read_old(connection)) is None:
            return session
        old = await self.sessions.open(old_id)
        if not old.is_known:  # it is another service's
            return session
        old.resend_cookie()
        self.has_old_cookie = True
        return old


class SessionScheme(SecurityBase):
    """The dependency that opens the session.

    To FastAPI it is a security scheme: the API's docs show it, and the HTTP cache refuses it on
    routes that have one answer for everybody.
    """

    is_optional = True
    """A client without a session gets a new one; it is `get_user` that refuses."""

    def __init__(self, *, with_token: bool = True) -> None:
        """Make the scheme of routes whose writes need a CSRF token, or need none."""
        self.scheme_name = "session"
        self._with_token = with_token
        self.describe("session")

    def describe(self, cookie: str) -> None:
        """Have the API's docs say what the cookie is called."""
        self.model = APIKey.model_validate({"in": APIKeyIn.cookie, "name": f"__Host-{cookie}"})

    async def __call__(self, connection: HTTPConnection) -> Session:
        connection.scope[PERSONALIZED_BY] = {*connection.scope.get(PERSONALIZED_BY, ()), self}
        return await open_session(connection, with_token=self._with_token)


async def open_session(connection: HTTPConnection, *, with_token: bool = True) -> Session:
    """Return the request's session, for what tells the cache itself that it depends on who asks.

    Raises:
        HTTPException, WebSocketException: it is a write that another site may have sent.
        RedisError: Redis did not answer.
    """
    request: RequestSession | None = connection.scope.get(REQUEST_SESSION)
    if request is None:
        raise RuntimeError("sessions need app.add_middleware(SessionMiddleware, ...)")
    return await request.open(connection, with_token=with_token)


get_session = SessionScheme()
get_session_to_log_in = SessionScheme(with_token=False)

SessionDependency = Annotated[Session, Depends(get_session)]
LoginSessionDependency = Annotated[Session, Depends(get_session_to_log_in)]
"""For routes that log somebody in, whoever was logged in before: they need no CSRF token."""


async def get_user(session: SessionDependency) -> str:
    """Return who is logged in; 401 if nobody is. Also for `vary_by=` of cached routes."""
    if session.user is None:
        raise HTTPException(401, "log in first")
    return session.user


UserDependency = Annotated[str, Depends(get_user)]
