"""Tokens: JSON Web Tokens (RFC 7519), accepted only after every check of RFC 8725.

The settings and the keys decide what may verify a token, never the token itself: it names a key,
and that key has one algorithm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from jwt.exceptions import ExpiredSignatureError, PyJWTError

from app.core.access import metrics
from app.core.access.jwks import Keys, UnknownKey
from app.core.access.policy import Policy

ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Algorithms whose verifying key may be public."""
_MAX_LENGTH = 8192
_REQUIRED_CLAIMS = ["exp", "sub", "aud", "iss"]
# What PyJWT raises for what a stranger may send: its own errors, and those that it lets through for
# nested JSON, infinite times, and values of other types than it expects.
_INVALID = (
    PyJWTError, UnknownKey, RecursionError, ValueError, TypeError, OverflowError, AttributeError,
)  # fmt: skip


class InvalidToken(Exception):
    """The token proves nothing; the message is for the log, not for the sender."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a verified token says about who bears it, and what follows from that."""

    subject: str
    redis_role: str | None
    """The Redis login of `RoleRedis`. None: the policy has none for these claims."""
    roles: frozenset[str]
    """The roles in the application."""
    claims: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a token must say, besides being signed."""

    issuer: str
    audience: str
    algorithms: Sequence[str]
    leeway: float = 30.0
    """Seconds by which clocks may differ."""


class Verifier:
    """Verifies tokens, and says what follows from them."""

    def __init__(self, keys: Keys, rules: TokenRules, policy: Policy) -> None:
        self._keys = keys
        self._rules = rules
        self._policy = policy

    async def verify(self, token: str) -> Bearer:
        """Return who the bearer of this token is.

        Raises:
            InvalidToken: it proves nothing.
            KeysUnavailable: no keys are known, or only old ones.
        """
        try:
            claims = await self._claims(token)
        except ExpiredSignatureError as error:
            metrics.tokens.labels("expired").inc()
            raise InvalidToken(str(error)) from None
        except _INVALID as error:
            metrics.tokens.labels("invalid").inc()
            raise InvalidToken(str(error) or "the key is unknown") from None
        metrics.tokens.labels("accepted").inc()
        policy = self._policy
        return Bearer(claims["sub"], policy.role_of(claims), policy.roles_of(claims), claims)

    async def check(self) -> None:
        """Raise KeysUnavailable if no token could be verified now."""
        await self._keys.check()

    async def close(self) -> None:
        await self._keys.close()

    async def _claims(self, token: str) -> dict[str, Any]:
        rules = self._rules
        if len(token) > _MAX_LENGTH:
            raise jwt.DecodeError(f"the token is longer than {_MAX_LENGTH} characters")
        header = jwt.get_unverified_header(token)
        # First: for another algorithm the keys need not be fetched.
        if header.get("alg") not in rules.algorithms:
            raise jwt.InvalidAlgorithmError(f"{header.get('alg')!r} is not among the algorithms")
        key = await self._keys.key(header.get("kid"))
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(rules.algorithms),
            audience=rules.audience,
            issuer=rules.issuer,
            leeway=rules.leeway,
            options={"require": _REQUIRED_CLAIMS},
        )
        if not claims["sub"].strip():
            raise jwt.InvalidTokenError(
                "the subject is empty"
            )  # else all of these would be one identity
        return claims
