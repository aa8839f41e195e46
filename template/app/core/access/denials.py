"""What Redis denies: answered with 403, and logged with who asked."""

import structlog
from fastapi import Request
from starlette.responses import Response

from app.core import problems
from app.core.access import metrics
from app.core.access.tokens import Bearer
from app.core.redis import reply_code

log = structlog.get_logger(__name__)


def is_denial(error: Exception) -> bool:
    """Return whether Redis has denied a command, a key or a channel, also inside of Lua."""
    return reply_code(error) == "NOPERM"


def record_denial(bearer: Bearer, *, why: str) -> None:
    """Log and count a denial; the request id is on the line as on every other."""
    metrics.denials.labels(bearer.redis_role or "none").inc()
    log.warning("access.denied", subject=bearer.subject, role=bearer.redis_role, why=why)


async def answer_denial(request: Request, error: Exception) -> Response:
    """Answer a RedisError with 403 if it is a denial to the bearer of the request.

    Any other error is a fault of the service and is raised again, and so is a denial of a request
    without one.
    """
    bearer = getattr(request.state, "bearer", None)
    if not (isinstance(bearer, Bearer) and is_denial(error)):
        raise error
    record_denial(bearer, why=str(error))
    return problems.answer(403, "you may not do this")
