"""The session of a request, handed to a route.

@router.get("/cart")
async def cart(session: SessionDependency) -> list[str]: ...

@router.get("/orders")
async def orders(user: UserDependency) -> list[Order]: ...  # 401 unless somebody is logged in
"""

from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from app.core.openapi import NEEDS_LOGIN
from app.core.sessions.session import Session
from app.core.sessions.visit import VISIT, Visit

TOUCHED = "app.touched"
"""In the scope: what a response depends on that is no part of the request's address. The HTTP cache
keeps such a response only if the route says that it varies by that."""


class SessionScheme(SecurityBase):
    """A security scheme to FastAPI: shown in the API's docs, and refused on routes that the HTTP
    cache answers for everybody alike."""

    is_optional = True
    """Whoever has none gets a new one; `get_user` is what refuses."""

    def __init__(self, *, with_token: bool = True) -> None:
        self.scheme_name = "session"
        self._with_token = with_token
        self.describe("session")

    def describe(self, cookie: str) -> None:
        """Have the API's docs say what the cookie is called."""
        self.model = APIKey.model_validate({"in": APIKeyIn.cookie, "name": f"__Host-{cookie}"})

    async def __call__(self, connection: HTTPConnection) -> Session:
        visit: Visit | None = connection.scope.get(VISIT)
        if visit is None:
            raise RuntimeError("sessions need app.add_middleware(SessionMiddleware, ...)")
        connection.scope[TOUCHED] = self
        return await visit.open(connection, with_token=self._with_token)


get_session = SessionScheme()
get_session_to_log_in = SessionScheme(with_token=False)

SessionDependency = Annotated[Session, Depends(get_session)]
LoginSessionDependency = Annotated[Session, Depends(get_session_to_log_in)]
"""For routes that log somebody in, whoever was before: they ask for no token."""


async def get_user(session: SessionDependency) -> str:
    """Who is logged in; 401 if nobody is. Also for `vary_by=` of cached routes."""
    if session.user is None:
        raise HTTPException(401, "log in first")
    return session.user


NEEDS_LOGIN.add(get_user)

UserDependency = Annotated[str, Depends(get_user)]
