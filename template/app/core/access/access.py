"""What requests need to act as their Redis role: a token, and a Redis client with its rights.

    @router.get("/documents/{name}")
    async def read_document(name: str, redis: RoleRedis) -> Document: ...

Without a valid token the answer is 401. It is 403 if the policy has no Redis role for it, or if
Redis denies a command (see `denials.py`).
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Annotated, NoReturn, Self

import structlog
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from redis.exceptions import RedisError
from starlette.requests import HTTPConnection

from app.core.access import metrics
from app.core.access.audit import Audit
from app.core.access.denials import record_denial
from app.core.access.jwks import KeysUnavailable
from app.core.access.policy import Policy
from app.core.access.tokens import Bearer, InvalidToken, Verifier
from app.core.identity import Identities, Identity
from app.core.redis import RedisClient
from app.core.tasks import Tasks

log = structlog.get_logger(__name__)

BEARER = HTTPBearer(bearerFormat="JWT", auto_error=False)


class Access:
    """Verifies tokens, and has a Redis client for each role. Enter it with `async with`."""

    def __init__(
        self,
        policy: Policy,
        verifier: Verifier,
        *,
        connect: Callable[[str], RedisClient],
        audit: Audit,
    ) -> None:
        """Make the clients of all roles that identities may have, without I/O.

        Args:
            policy: says which roles there are.
            verifier: verifies the tokens of requests.
            connect: makes the client of a role, with a pool of its own. It stays the caller's.
            audit: reports denials while this is entered.
        """
        roles = dict.fromkeys(rule.role for rule in policy.rules)
        self._clients: Mapping[str, RedisClient] = {role: connect(role) for role in roles}
        self._audit = audit
        self._tasks = Tasks()
        self.verifier = verifier
        metrics.expect_roles(roles, policy.roles)

    def client(self, role: str) -> RedisClient:
        """Return the client of a role that identities may have."""
        return self._clients[role]

    @property
    def roles(self) -> list[str]:
        """The roles that identities may have."""
        return list(self._clients)

    async def bearer(self, connection: HTTPConnection) -> Bearer:
        """Return what the token of a request proves.

        Raises:
            HTTPException: 401, it proves nothing; 503, nobody can tell now.
        """
        given = connection.headers.getlist("authorization")
        scheme, token = get_authorization_scheme_param(given[0] if len(given) == 1 else None)
        if scheme.lower() != "bearer" or not token:  # of two tokens, nobody knows which
            metrics.tokens.labels("missing").inc()
            _unauthorized("a token is needed: Authorization: Bearer ...", "Bearer")
        try:
            bearer = await self.verifier.verify(token)
        except InvalidToken as error:
            log.info("access.token_refused", why=str(error))
            _unauthorized("the token is not valid", 'Bearer error="invalid_token"')
        except KeysUnavailable as error:
            log.warning("access.keys_unavailable", error=str(error))
            raise HTTPException(
                503, "tokens cannot be checked now, try again", {"retry-after": "1"}
            ) from None
        connection.state.bearer = bearer
        return bearer

    def identify(self, identities: Identities) -> None:
        """Have the tokens of requests say who asks."""

        async def by_token(connection: HTTPConnection) -> Identity:
            bearer = await self.bearer(connection)
            return Identity(bearer.subject, bearer.roles, proof="token")

        identities.by_token(by_token, BEARER)

    async def check(self) -> None:
        """Log in as every role, and check that keys and denials can be read.

        Raises:
            RedisError: a role cannot log in, and the message names it; or denials cannot be read at
                present.
            KeysUnavailable: no token can be verified.
        """
        for role, client in self._clients.items():
            try:
                await client.ping()
            except RedisError as error:
                raise RedisError(f"the role {role} cannot log in: {error}") from error
        if (failure := self._audit.error) is not None:
            raise RedisError(f"denials cannot be read: {failure}") from failure
        await self.verifier.check()

    async def __aenter__(self) -> Self:
        self._audit.start()
        # Now rather than with the first token, so that a wrong address is in the log at once.
        self._tasks.start(self._fetch_keys())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._tasks.stop()
        await self._audit.stop()
        await self.verifier.close()

    async def _fetch_keys(self) -> None:
        with suppress(KeysUnavailable):  # which is in the log
            await self.verifier.check()


async def get_bearer(
    request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> Bearer:
    """Return what the request's token proves; 401 or 503 if it proves nothing."""
    access: Access = request.app.state.access
    return await access.bearer(request)


BearerDependency = Annotated[Bearer, Depends(get_bearer)]


async def get_role_redis(request: Request, bearer: BearerDependency) -> RedisClient:
    """Return the client of the token's Redis role; 403 if it has none."""
    if bearer.redis_role is None:
        record_denial(bearer, why="the policy has no role for this identity")
        raise HTTPException(403, "you may not do this")
    access: Access = request.app.state.access
    return access.client(bearer.redis_role)


RoleRedis = Annotated[RedisClient, Depends(get_role_redis)]


def _unauthorized(detail: str, challenge: str) -> NoReturn:
    raise HTTPException(401, detail, {"www-authenticate": challenge})
