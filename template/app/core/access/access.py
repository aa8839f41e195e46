"""The service's side of access control: a verifier, and one client per role."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from app.core.access.audit import Audit
from app.core.access.policy import Policy
from app.core.access.tokens import Verifier
from app.core.redis import RedisClient


class Access:
    """Lives as long as the service: `async with`."""

    def __init__(
        self,
        policy: Policy,
        verifier: Verifier,
        *,
        connect: Callable[[str], RedisClient],
        audit: Audit,
    ) -> None:
        """`connect` makes the client of a role, with a pool of its own."""
        roles = dict.fromkeys(rule.role for rule in policy.rules)
        self._clients: Mapping[str, RedisClient] = {role: connect(role) for role in roles}
        self._audit = audit
        self.verifier = verifier

    def client(self, role: str) -> RedisClient:
        """The client of a role that identities may have."""
        return self._clients[role]

    @property
    def roles(self) -> list[str]:
        return list(self._clients)

    async def check(self) -> None:
        """Log in as every role that identities may have.

        Raises:
            RedisError: one cannot; the message names it.
        """
        for role, client in self._clients.items():
            try:
                await client.ping()
            except RedisError as error:
                raise RedisError(f"the role {role} cannot log in: {error}") from error

    async def __aenter__(self) -> Self:
        self._audit.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._audit.stop()
        await self.verifier.close()
        for client in self._clients.values():
            await client.aclose()
