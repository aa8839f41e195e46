"""What Redis denies: told to whoever asked as 403, and written down with who that was."""

import structlog
from fastapi import Request
from fastapi.responses import JSONResponse

from app.core.access import metrics
from app.core.access.tokens import Identity
from app.core.redis import reply_code

log = structlog.get_logger(__name__)


def is_denial(error: Exception) -> bool:
    """Whether Redis has denied a command, a key or a channel, on its own or inside of Lua."""
    return reply_code(error) == "NOPERM"


def record_denial(identity: Identity, *, why: str) -> None:
    """A line in the audit log; the request id is on it as on every line."""
    metrics.denials.labels(identity.role or "none").inc()
    log.warning("access.denied", subject=identity.subject, role=identity.role, why=why)


async def answer_denial(request: Request, error: Exception) -> JSONResponse:
    """For `RedisError`: 403 if Redis denied it to the identity that asks.

    Any other one is a mistake in the service, and so is a denial where nobody has asked as anybody.
    """
    identity = getattr(request.state, "identity", None)
    if not (isinstance(identity, Identity) and is_denial(error)):
        raise error
    record_denial(identity, why=str(error))
    return JSONResponse({"detail": "you may not do this"}, 403)
