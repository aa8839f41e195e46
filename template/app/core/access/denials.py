"""What Redis denies: answered with 403, and logged with who asked."""

import structlog
from fastapi import Request
from starlette.responses import Response

from app.core import problems
from app.core.access import metrics
from app.core.access.tokens import Identity
from app.core.redis import reply_code

log = structlog.get_logger(__name__)


def is_denial(error: Exception) -> bool:
    """Return whether Redis has denied a command, a key or a channel, also inside of Lua."""
    return reply_code(error) == "NOPERM"


def record_denial(identity: Identity, *, why: str) -> None:
    """Log and count a denial; the request id is on the line as on every other."""
    metrics.denials.labels(identity.role or "none").inc()
    log.warning("access.denied", subject=identity.subject, role=identity.role, why=why)


async def answer_denial(request: Request, error: Exception) -> Response:
    """Answer a RedisError with 403 if it is a denial to the identity of the request.

    Any other error is a fault of the service and is raised again, and so is a denial of a request
    without an identity.
    """
    identity = getattr(request.state, "identity", None)
    if not (isinstance(identity, Identity) and is_denial(error)):
        raise error
    record_denial(identity, why=str(error))
    return problems.answer(403, "you may not do this")
