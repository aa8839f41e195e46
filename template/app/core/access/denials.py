"""What Redis denies: told to whoever asked as 403, and written down with who that was.

A denial inside of Lua is an ordinary error of the script, known by its words only.
"""

import structlog
from fastapi import Request
from fastapi.responses import JSONResponse
from redis.exceptions import NoPermissionError, ResponseError

from app.core.access import metrics
from app.core.access.identity import Identity

log = structlog.get_logger(__name__)

_IN_LUA = (
    "acl failure in script",  # Valkey, and Redis from 7.2
    "the user executing the script can't",  # Redis 7.0
)


def is_denial(error: ResponseError) -> bool:
    """Whether Redis has denied a command, a key or a channel, on its own or inside of Lua."""
    text = str(error).lower()
    return isinstance(error, NoPermissionError) or any(words in text for words in _IN_LUA)


def record_denial(identity: Identity, *, why: str) -> None:
    """A line in the audit log; the request id is on it as on every line."""
    metrics.denials.labels(identity.role or "none").inc()
    log.warning("access.denied", subject=identity.subject, role=identity.role, why=why)


async def answer_denial(request: Request, error: Exception) -> JSONResponse:
    """For `ResponseError`: 403 if Redis denied it to the identity that asks.

    Any other one is a mistake in the service, and so is a denial where nobody has asked as anybody.
    """
    identity = getattr(request.state, "identity", None)
    if not (isinstance(identity, Identity) and _is_denied(error)):
        raise error
    record_denial(identity, why=str(error))
    return JSONResponse({"detail": "you may not do this"}, 403)


def _is_denied(error: Exception) -> bool:
    return isinstance(error, ResponseError) and is_denial(error)
