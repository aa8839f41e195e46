"""The users of Redis, and their passwords: all of them are derived from one secret.

A role logs in as `service-role`, because several services may share one Redis. Its password is the
HMAC of that name. So there is one secret to keep and to rotate: the first of the ring logs in, and
the server accepts those of all.
"""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256

DEVELOPMENT_SECRET = "for-development-only-everybody-knows-this-access-secret"
_LIMIT = 4


class Logins:
    """The users of one service."""

    def __init__(self, service: str, secrets: Sequence[str]) -> None:
        """Raises ValueError if there is no secret, or the same one twice."""
        if not secrets or not all(secrets):
            raise ValueError("access needs at least one secret, and no empty one")
        if len(set(secrets)) < len(secrets):
            raise ValueError("access has the same secret twice")
        if len(secrets) > _LIMIT:
            raise ValueError(f"access takes {_LIMIT} secrets: drop those that are rolled out")
        self._service = service
        self._secrets = tuple(secrets)

    def user(self, role: str) -> str:
        return f"{self._service}-{role}"

    def password(self, role: str) -> str:
        return _password(self._secrets[0], self.user(role))

    def hashes(self, role: str) -> list[str]:
        """SHA-256 of every password that the server accepts, as an ACL file has them."""
        user = self.user(role)
        return [sha256(_password(secret, user).encode()).hexdigest() for secret in self._secrets]


def _password(secret: str, user: str) -> str:
    if secret == DEVELOPMENT_SECRET:
        return secret  # there is nothing to keep, and one can log in by hand
    return urlsafe_b64encode(hmac.digest(secret.encode(), user.encode(), "sha256")).decode()
