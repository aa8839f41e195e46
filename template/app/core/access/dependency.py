"""The identity of a request, and the Redis client with exactly the rights of its role.

    @router.get("/documents/{name}")
    async def read_document(name: str, redis: RoleRedis) -> Document: ...

Without a valid token the answer is 401. It is 403 if the identity has no role, or if Redis denies
a command (see `denials.py`).
"""

from typing import Annotated, NoReturn

import structlog
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.core.access import metrics
from app.core.access.access import Access
from app.core.access.denials import record_denial
from app.core.access.jwks import KeysUnavailable
from app.core.access.tokens import Identity, InvalidToken
from app.core.redis import RedisClient

log = structlog.get_logger(__name__)

_bearer = HTTPBearer(bearerFormat="JWT", auto_error=False)


async def get_identity(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Identity:
    """Return the identity that the request's token proves; 401 or 503 if it proves none."""
    if (
        given is None or len(request.headers.getlist("authorization")) > 1
    ):  # of two, nobody knows which
        metrics.tokens.labels("missing").inc()
        _unauthorized("a token is needed: Authorization: Bearer ...", "Bearer")
    access: Access = request.app.state.access
    try:
        identity = await access.verifier.verify(given.credentials)
    except InvalidToken as error:
        log.info("access.token_refused", why=str(error))
        _unauthorized("the token is not valid", 'Bearer error="invalid_token"')
    except KeysUnavailable as error:
        log.warning("access.keys_unavailable", error=str(error))
        raise HTTPException(
            503, "tokens cannot be checked now, try again", {"retry-after": "1"}
        ) from None
    request.state.identity = identity
    return identity


IdentityDependency = Annotated[Identity, Depends(get_identity)]


async def get_role_redis(request: Request, identity: IdentityDependency) -> RedisClient:
    """Return the client of the identity's role; 403 if it has none."""
    if identity.role is None:
        record_denial(identity, why="the policy has no role for this identity")
        raise HTTPException(403, "you may not do this")
    access: Access = request.app.state.access
    return access.client(identity.role)


RoleRedis = Annotated[RedisClient, Depends(get_role_redis)]


def _unauthorized(detail: str, challenge: str) -> NoReturn:
    raise HTTPException(401, detail, {"www-authenticate": challenge})
