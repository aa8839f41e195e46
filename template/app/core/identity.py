"""Who asks: one identity, whichever way it was proved, and what its roles allow.

    @router.get("/me")
    async def me(identity: IdentityDependency) -> str: ...

    @router.get("/reports", dependencies=[Depends(RequireRole("admin"))])
    async def reports() -> list[Report]: ...

A role is a word for what somebody may do in this application. Where it comes from depends on the
proof; see `Identities`.

A request with a bearer token is judged by that alone, also if it is not valid: its cookies are not
looked at. A browser adds cookies to whatever it sends, a token is sent on purpose. So nobody is
taken for the owner of a cookie who meant to be somebody else, and what comes with a token needs no
protection against forgery.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import structlog
from fastapi import Depends, HTTPException
from fastapi.openapi.models import HTTPBase
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from app.core.scope import PERSONALIZED_BY

log = structlog.get_logger(__name__)

_ROLE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)

Proof = Literal["session", "token"]


def is_role_name(name: str) -> bool:
    """Return whether a role may be called so: lower case, digits, hyphens."""
    return _ROLE.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. It can be part of a cache key."""

    subject: str
    """Whom the proof names. Of different proofs, the same text may name different people."""
    roles: frozenset[str] = frozenset()
    """What they may do in the application, as of now."""
    proof: Proof = field(kw_only=True)


Prove = Callable[[HTTPConnection], Awaitable[Identity | None]]
"""Return whom a request proves to come from; None for nobody."""


class Identities:
    """The ways in which a service finds out who asks."""

    def __init__(self) -> None:
        """Begin without any: nobody is known."""
        self._by_token: Prove | None = None
        self._by_cookie: Prove | None = None
        self.schemes: list[SecurityBase] = []
        """The ways, as the API's docs show them."""

    def by_token(self, prove: Prove, scheme: SecurityBase) -> None:
        """Have bearer tokens say who asks; `prove` raises HTTPException for what is not valid."""
        self._by_token = prove
        self.schemes.append(scheme)

    def by_session(self, prove: Prove, scheme: SecurityBase) -> None:
        """Have cookies say who asks, where no token does.

        `prove` is asked by every request that needs to know, so a role that it reads from where
        roles are kept is gone with the next request.
        """
        self._by_cookie = prove
        self.schemes.append(scheme)

    async def identify(self, connection: HTTPConnection) -> Identity | None:
        """Return who asks; None for nobody.

        Raises:
            HTTPException: the request has a token that is not valid.
            Exception: it cannot be found out; then nobody is let in.
        """
        if self._by_token is not None and _has_token(connection):
            return await self._by_token(connection)
        return None if self._by_cookie is None else await self._by_cookie(connection)

    @property
    def challenge(self) -> dict[str, str] | None:
        """The headers of a 401, if a token would help."""
        return None if self._by_token is None else {"www-authenticate": "Bearer"}


def _has_token(connection: HTTPConnection) -> bool:
    return any(
        value.partition(" ")[0].lower() == "bearer"
        for value in connection.headers.getlist("authorization")
    )


class IdentityScheme(SecurityBase):
    """The dependency that looks who asks.

    To FastAPI it is a security scheme: the API's docs show it, as the ways there are, and the HTTP
    cache refuses it on routes that have one answer for everybody.
    """

    is_optional = True
    """It returns None for nobody; it is `get_identity` that refuses."""
    must_vary = (
        "use vary_by=get_identity, for an entry for each person, or vary_by=get_roles, for one for "
        "each set of roles, of app.core.identity"
    )
    """The remedy that the HTTP cache names for a route whose entries do not vary by it."""

    def __init__(self) -> None:
        """Make the scheme; which ways there are is told later, by `describe`."""
        self.scheme_name = "identity"
        self.model = HTTPBase(scheme="bearer")
        self.alternatives: list[SecurityBase] = []

    def describe(self, ways: list[SecurityBase]) -> None:
        """Have the API's docs show these ways in its place."""
        self.alternatives = ways

    async def __call__(self, connection: HTTPConnection) -> Identity | None:
        connection.scope[PERSONALIZED_BY] = {*connection.scope.get(PERSONALIZED_BY, ()), self}
        return await _identities(connection).identify(connection)


find_identity = IdentityScheme()


async def get_identity(
    connection: HTTPConnection, found: Annotated[Identity | None, Depends(find_identity)]
) -> Identity:
    """Return who asks; 401 for nobody. Also for `vary_by=`: an entry for each of them."""
    if found is None:
        raise HTTPException(401, "log in first", _identities(connection).challenge)
    return found


def _identities(connection: HTTPConnection) -> Identities:
    identities: Identities | None = getattr(connection.app.state, "identities", None)
    if identities is None:
        raise RuntimeError("who asks needs install_identity(service), before the application")
    return identities


IdentityDependency = Annotated[Identity, Depends(get_identity)]
OptionalIdentityDependency = Annotated[Identity | None, Depends(find_identity)]


async def get_roles(identity: IdentityDependency) -> frozenset[str]:
    """Return the roles of who asks, for `vary_by=`: one entry for all who have the same ones."""
    return identity.roles


class RequireRole:
    """The dependency that lets in who has a role: 401 for nobody, 403 without the role.

    It returns the identity. Also for `vary_by=` of cached routes.
    """

    def __init__(self, *roles: str) -> None:
        """Let in who has at least one of these roles.

        Raises:
            ValueError: there is none, or one that nobody can have.
        """
        if not roles or not all(map(is_role_name, roles)):
            raise ValueError(
                f"RequireRole needs names of roles, in lower case, digits and hyphens, not {roles}"
            )
        self._roles = frozenset(roles)

    async def __call__(self, identity: IdentityDependency) -> Identity:
        if self._roles.isdisjoint(identity.roles):
            log.warning(
                "identity.role_missing",
                subject=identity.subject,
                proof=identity.proof,
                needed=sorted(self._roles),
            )
            raise HTTPException(403, "you may not do this")
        return identity
