"""The policy as Redis has it: a user per role, and the default user off.

    aclfile /etc/redis/users.acl        in redis.conf, or `ACL LOAD` while it runs

Users of other services, of operators and of sentinels are further lines of the same file.
"""

from app.core.access.passwords import Logins
from app.core.access.policy import Policy, Role


def acl_rules(policy: Policy, role: Role) -> list[str]:
    """What one role may do, in the words of `ACL SETUSER`; it begins from nothing."""
    return [
        "resetkeys",
        "resetchannels",
        "-@all",
        *(f"~{pattern}" for pattern in role.keys),
        *(f"%R~{pattern}" for pattern in role.read),
        *(f"&{pattern}" for pattern in role.channels),
        *(f"+{command}" for command in (*policy.connection, *role.commands)),
    ]


def acl_users(policy: Policy, logins: Logins) -> dict[str, list[str]]:
    """The rules of every user, with hashes of their passwords."""
    return {
        logins.user(name): [
            "on",
            "resetpass",
            *(f"#{digest}" for digest in logins.hashes(name)),
            *acl_rules(policy, role),
        ]
        for name, role in policy.roles.items()
    }


def acl_file(policy: Policy, logins: Logins) -> str:
    """The text of `users.acl`. There are no comments in such a file."""
    users = {"default": ["off", "resetpass", "resetkeys", "resetchannels", "-@all"]}
    users |= acl_users(policy, logins)
    return "".join(f"user {name} {' '.join(rules)}\n" for name, rules in users.items())
