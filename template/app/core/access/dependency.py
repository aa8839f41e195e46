"""Who asks, and the Redis client that has exactly the rights of their role.

    @router.get("/documents/{name}")
    async def read_document(name: str, redis: RoleRedis) -> Document: ...

401 without a valid token, 403 for who has no role, and 403 as well when Redis denies a command
(see `denials.py`).
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
    """The identity that the request's token proves."""
    if given is None or len(request.headers.getlist("authorization")) > 1:  # which of them?
        metrics.tokens.labels("missing").inc()
        _unauthorized("a token is needed: Authorization: Bearer ...", "Bearer")
    access: Access = request.app.state.access
    try:
        identity = await access.verifier.verify(given.credentials)
    except InvalidToken as error:
        log.info("access.token_refused", why=str(error))
        _unauthorized("the token is not valid", 'Bearer error="invalid_token"')
    except KeysUnavailable as error:
        log.warning("access.no_keys", error=str(error))
        raise HTTPException(
            503, "tokens cannot be checked now, try again", {"retry-after": "1"}
        ) from None
    request.state.identity = identity
    return identity


IdentityDependency = Annotated[Identity, Depends(get_identity)]


async def get_role_redis(request: Request, identity: IdentityDependency) -> RedisClient:
    """The client of the identity's role."""
    if identity.role is None:
        record_denial(identity, why="the policy has no role for this identity")
        raise HTTPException(403, "you may not do this")
    access: Access = request.app.state.access
    return access.client(identity.role)


RoleRedis = Annotated[RedisClient, Depends(get_role_redis)]


def _unauthorized(detail: str, challenge: str) -> NoReturn:
    raise HTTPException(401, detail, {"www-authenticate": challenge})
