"""The service's side of access control: a verifier of tokens, and one Redis client per role."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from app.core.access import metrics
from app.core.access.audit import Audit
from app.core.access.jwks import KeysUnavailable
from app.core.access.policy import Policy
from app.core.access.tokens import Verifier
from app.core.redis import RedisClient
from app.core.tasks import Tasks


class Access:
    """What requests need to act as their role. Enter it with `async with`."""

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
            connect: makes the client of a role, with a pool of its own. Leaving closes it.
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
        for client in self._clients.values():
            await client.aclose()

    async def _fetch_keys(self) -> None:
        with suppress(KeysUnavailable):  # which is in the log
            await self.verifier.check()
