"""Sessions: what a browser's cookie stands for, encrypted in Redis."""

from app.core.sessions.dependency import (
    LoginSessionDependency,
    SessionDependency,
    UserDependency,
    get_session,
    get_session_to_log_in,
    get_user,
)
from app.core.sessions.errors import (
    SessionConflict,
    SessionEnded,
    SessionError,
    SessionTooLarge,
)
from app.core.sessions.manager import Sessions
from app.core.sessions.middleware import SessionMiddleware
from app.core.sessions.session import Session

__all__ = [
    "LoginSessionDependency",
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
]
