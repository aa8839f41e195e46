"""Sessions: what is known of the owner of a browser's cookie, encrypted in Redis."""

from app.core.sessions.dependency import (
    LoginSessionDependency,
    SessionDependency,
    UserDependency,
    get_session,
    get_session_to_log_in,
    get_user,
    open_session,
)
from app.core.sessions.errors import (
    SessionConflict,
    SessionEnded,
    SessionError,
    SessionTooLarge,
)
from app.core.sessions.middleware import SessionMiddleware
from app.core.sessions.session import Session
from app.core.sessions.sessions import Sessions
from app.core.sessions.store import OpenSession

__all__ = [
    "LoginSessionDependency",
    "OpenSession",
    "Session",
    "SessionConflict",
    "SessionDependency",
    "SessionEnded",
    "SessionError",
    "SessionMiddleware",
    "SessionTooLarge",
    "Sessions",
    "UserDependency",
    "get_session",
    "get_session_to_log_in",
    "get_user",
    "open_session",
]
