"""Tokens: JSON Web Tokens (RFC 7519), believed only after every check of RFC 8725.

What may verify a token is fixed by the settings and by the keys, never by the token: it names a
key, and that key has one algorithm.
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
_LONGEST = 8192
_NEEDED = ["exp", "sub", "aud", "iss"]
# What PyJWT raises for what a stranger may send, its own errors and those that it lets through:
# nested JSON, times without end, and words where it expects others.
_USELESS = (
    PyJWTError, UnknownKey, RecursionError, ValueError, TypeError, OverflowError, AttributeError,
)  # fmt: skip


class InvalidToken(Exception):
    """A token that proves nothing; the message is for the log, not for whoever sent it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified token says of its bearer, and the role that follows from it."""

    subject: str
    role: str | None
    """None: the policy has no role for these claims."""
    claims: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a token has to say beside its signature."""

    issuer: str
    audience: str
    algorithms: Sequence[str]
    leeway: float = 30.0
    """Seconds by which clocks may differ."""


class Verifier:
    """Turns tokens into identities."""

    def __init__(self, keys: Keys, rules: TokenRules, policy: Policy) -> None:
        self._keys = keys
        self._rules = rules
        self._policy = policy

    async def verify(self, token: str) -> Identity:
        """Who the bearer of this token is.

        Raises:
            InvalidToken: nothing is proven.
            KeysUnavailable: no keys are known, or only old ones.
        """
        try:
            claims = await self._claims(token)
        except ExpiredSignatureError as error:
            metrics.tokens.labels("expired").inc()
            raise InvalidToken(str(error)) from None
        except _USELESS as error:
            metrics.tokens.labels("invalid").inc()
            raise InvalidToken(str(error) or "the key is unknown") from None
        metrics.tokens.labels("accepted").inc()
        return Identity(claims["sub"], self._policy.role_of(claims), claims)

    async def check(self) -> None:
        """Raises KeysUnavailable if no token could be judged now."""
        await self._keys.check()

    async def close(self) -> None:
        await self._keys.close()

    async def _claims(self, token: str) -> dict[str, Any]:
        rules = self._rules
        if len(token) > _LONGEST:
            raise jwt.DecodeError(f"the token is longer than {_LONGEST} characters")
        header = jwt.get_unverified_header(token)
        # Looked at first: anything else is not worth a fetch of the keys.
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
            options={"require": _NEEDED},
        )
        if not claims["sub"].strip():
            raise jwt.InvalidTokenError("the subject is empty")  # all of these would be one
        return claims
