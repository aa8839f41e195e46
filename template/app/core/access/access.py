"""The service's side of access control: a verifier, and one client per role."""

import asyncio
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
from app.core.redis import RedisClient, stop_tasks


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
        metrics.expect_roles(roles, policy.roles)
        self._first_look: asyncio.Task[None] | None = None
        self.verifier = verifier

    def client(self, role: str) -> RedisClient:
        """The client of a role that identities may have."""
        return self._clients[role]

    @property
    def roles(self) -> list[str]:
        return list(self._clients)

    async def check(self) -> None:
        """Log in as every role that identities may have, and see that the rest can do its work.

        Raises:
            RedisError: a role cannot log in, and the message names it; or denials are not looked
                for at present.
            KeysUnavailable: no token can be judged.
        """
        for role, client in self._clients.items():
            try:
                await client.ping()
            except RedisError as error:
                raise RedisError(f"the role {role} cannot log in: {error}") from error
        if (trouble := self._audit.trouble) is not None:
            raise RedisError(f"denials are not looked for: {trouble}") from trouble
        await self.verifier.check()

    async def __aenter__(self) -> Self:
        self._audit.start()
        # Now rather than with the first token, so that a wrong address is in the log at once.
        self._first_look = asyncio.create_task(self._look_for_keys())
        return self

    async def _look_for_keys(self) -> None:
        with suppress(KeysUnavailable):  # which is in the log
            await self.verifier.check()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._first_look is not None:
            await stop_tasks([self._first_look])
        await self._audit.stop()
        await self.verifier.close()
        for client in self._clients.values():
            await client.aclose()
