"""The command line of access control: shows the policy, and writes the files derived from it."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jwt

from app.core.access.acl import DEVELOPMENT_SECRET, RedisCredentials, acl_file
from app.core.access.jwks import DEVELOPMENT_ALGORITHM, DEVELOPMENT_KEY_ID
from app.core.access.policy import Policy

_TOKEN_SECONDS = 12 * 3600


class CommandLine:
    """Shows and writes the policy of one service."""

    def __init__(
        self,
        policy: Policy,
        credentials: RedisCredentials,
        *,
        derived: Mapping[Path, str],
        issuer: str,
        audience: str,
    ) -> None:
        """Take what the actions need.

        Args:
            policy: of the service.
            credentials: of the service in Redis.
            derived: the text of each file that follows from the policy, by path.
            issuer: of development tokens.
            audience: of development tokens.
        """
        self._policy = policy
        self._credentials = credentials
        self._derived = derived
        self._issuer = issuer
        self._audience = audience

    def run(self, arguments: Sequence[str], *, name: str, about: str) -> int:
        """Do what the arguments say, and return the exit code."""
        options = _parser(name, about, list(self._policy.roles)).parse_args(arguments)
        match options.action:
            case "write":
                return self._write()
            case "check":
                return self._check()
            case "acl":
                print(acl_file(self._policy, self._credentials), end="")
            case "login":
                print(
                    self._credentials.user(options.role), self._credentials.password(options.role)
                )
            case "token":
                print(self._token(options.subject, options.claim))
            case _:
                print(table(self._policy))
        return 0

    def _write(self) -> int:
        for path, text in self._derived.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            print(f"{path} is written")
        return 0

    def _check(self) -> int:
        old = [path for path, text in self._derived.items() if not _has(path, text)]
        for path in old:
            print(f"{path} does not follow from the policy: run `make access`", file=sys.stderr)
        return 1 if old else 0

    def _token(self, subject: str, claims: Sequence[tuple[str, str]]) -> str:
        """Make a token that is signed with the development key, which production refuses."""
        listed: dict[str, list[str]] = {}
        for name, value in claims:
            listed.setdefault(name, []).append(value)
        fixed = {
            "sub": subject,
            "iss": self._issuer,
            "aud": self._audience,
            "exp": int(time.time()) + _TOKEN_SECONDS,
        }
        return jwt.encode(
            listed | fixed,
            DEVELOPMENT_SECRET,
            DEVELOPMENT_ALGORITHM,
            headers={"kid": DEVELOPMENT_KEY_ID},
        )


def table(policy: Policy) -> str:
    """Return who may do what, for people."""
    lines = []
    for name, role in policy.roles.items():
        lines.append(f"{name}: {role.about}")
        for kind, words in (
            ("reads and writes", role.keys),
            ("reads only", role.read),
            ("channels", role.channels),
            ("commands", role.commands),
        ):
            if words:
                lines.append(f"  {kind:<16}  {' '.join(words)}")
        for rule in policy.rules:
            if rule.role == name:
                claim = rule.claim if isinstance(rule.claim, str) else " > ".join(rule.claim)
                lines.append(f"  {'given to':<16}  whoever has {rule.value} in {claim}")
    lines.append(f"all of them: {' '.join(policy.connection)}")
    return "\n".join(lines)


def roles_module(policy: Policy) -> str:
    """Return the text of a Python module that names the roles."""
    members = "".join(f'    {name.upper().replace("-", "_")} = "{name}"\n' for name in policy.roles)
    return (
        '"""The roles of `access.toml` by name, written by `make access`."""\n\n'
        f"from enum import StrEnum\n\n\nclass Role(StrEnum):\n{members}"
    )


def _parser(name: str, about: str, roles: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name, description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", title="actions")
    actions.add_parser("table", help="show who may do what (also without an action)")
    actions.add_parser("write", help="write the files that follow from the policy")
    actions.add_parser("check", help="exit with 1 unless these files are as they have to be")
    actions.add_parser("acl", help="print the ACL file for the secrets in ACCESS_SECRETS")
    login = actions.add_parser("login", help="print the user and the password of a role")
    login.add_argument("role", choices=roles)
    token = actions.add_parser("token", help="print a token that is good in development")
    token.add_argument("subject")
    token.add_argument("claim", nargs="*", type=_claim, help="such as groups=documents-readers")
    return parser


def _claim(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    return name, value


def _has(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text
