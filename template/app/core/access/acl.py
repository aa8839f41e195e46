"""The policy as Redis has it: a user for each role, and the default user off.

    aclfile /etc/redis/users.acl        in redis.conf, or `ACL LOAD` while it runs

Users of other services, of operators and of sentinels are further lines of the same file.

A role logs in as `service-role`, because several services may share one Redis. Its password is the
HMAC of that name. So there is one secret to keep and to rotate: the first of the ring logs in, and
the server accepts those of all.
"""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256

from app.core.access.policy import Policy, Role

DEVELOPMENT_SECRET = "for-development-only-everybody-knows-this-access-secret"
_MAX_SECRETS = 4


class RedisCredentials:
    """The users of one service in Redis, and their passwords, which follow from its secrets."""

    def __init__(self, service: str, secrets: Sequence[str]) -> None:
        """Raise ValueError if there is no secret, or the same one twice."""
        if not secrets or not all(secrets):
            raise ValueError("access needs at least one secret, and no empty one")
        if len(set(secrets)) < len(secrets):
            raise ValueError("access has the same secret twice")
        if len(secrets) > _MAX_SECRETS:
            raise ValueError(f"access takes {_MAX_SECRETS} secrets: drop those that are rolled out")
        self._service = service
        self._secrets = tuple(secrets)

    def user(self, role: str) -> str:
        """Return the user name of a role."""
        return f"{self._service}-{role}"

    def password(self, role: str) -> str:
        """Return the password with which a role logs in."""
        return _password(self._secrets[0], self.user(role))

    def hashes(self, role: str) -> list[str]:
        """Return the SHA-256 of each password that the server accepts, as an ACL file has them."""
        user = self.user(role)
        return [sha256(_password(secret, user).encode()).hexdigest() for secret in self._secrets]


def acl_rules(policy: Policy, role: Role) -> list[str]:
    """Return what one role may do, in the words of `ACL SETUSER`; it begins from nothing."""
    return [
        "resetkeys",
        "resetchannels",
        "-@all",
        *(f"~{pattern}" for pattern in role.keys),
        *(f"%R~{pattern}" for pattern in role.read),
        *(f"&{pattern}" for pattern in role.channels),
        *(f"+{command}" for command in (*policy.connection, *role.commands)),
    ]


def acl_users(policy: Policy, credentials: RedisCredentials) -> dict[str, list[str]]:
    """Return the rules of every user, with the hashes of their passwords."""
    return {
        credentials.user(name): [
            "on",
            "resetpass",
            *(f"#{digest}" for digest in credentials.hashes(name)),
            *acl_rules(policy, role),
        ]
        for name, role in policy.roles.items()
    }


def acl_file(policy: Policy, credentials: RedisCredentials) -> str:
    """Return the text of `users.acl`. Such a file has no comments."""
    users = {"default": ["off", "resetpass", "resetkeys", "resetchannels", "-@all"]}
    users |= acl_users(policy, credentials)
    return "".join(f"user {name} {' '.join(rules)}\n" for name, rules in users.items())


def _password(secret: str, user: str) -> str:
    if secret == DEVELOPMENT_SECRET:
        return secret  # there is nothing to keep, and one can log in by hand
    return urlsafe_b64encode(hmac.digest(secret.encode(), user.encode(), "sha256")).decode()
