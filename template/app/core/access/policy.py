"""The policy: which token has which Redis role, and what that may do.

A Redis role is a login of Redis with rights of its own. The same file says which tokens have which
roles in the application (`RequireRole`), which are no logins and of which Redis knows nothing.

It is a file (`app/access.toml`), because people who decide read it, and because Redis, the service
and the tests all follow the same one. `{service}` in it stands for the name of the service.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.core.identity import is_role_name

_SERVICE = "{service}"
# Words of an ACL file are separated by blanks.
_PATTERN = re.compile(r"[!-~]+", re.ASCII)
_COMMAND = re.compile(r"[a-z]+(\|[a-z-]+)?", re.ASCII)

# Commands that no role may have. These show the names of keys, whatever the patterns of a role.
_LISTING = {"keys", "scan", "randomkey", "dbsize", "monitor", "slowlog", "latency", "sync", "psync"}
# These reach all keys, or are not bound to keys at all.
_UNBOUND = {"flushall", "flushdb", "swapdb", "migrate", "function", "fcall", "fcall_ro", "script"}
# These change or stop the server, or say who may do what.
_ADMINISTRATIVE = {
    "acl", "bgrewriteaof", "bgsave", "client", "cluster", "config", "debug", "failover", "hotkeys",
    "module", "pfdebug", "pfselftest", "pubsub", "replconf", "replicaof", "reset",
    "restore-asking", "save", "shutdown", "slaveof",
}  # fmt: skip
_REFUSED = _LISTING | _UNBOUND | _ADMINISTRATIVE
# Their harmless subcommands.
_ALLOWED = {
    "acl|log", "acl|whoami", "client|getname", "client|id", "client|setinfo", "client|setname",
    "cluster|shards", "cluster|slots", "pubsub|numsub",
}  # fmt: skip


class PolicyError(Exception):
    """The policy is wrong; the message names the file, and has a line for each mistake."""


def forbidden_reason(command: str) -> str | None:
    """Return why no role may have this command; None if one may.

    Categories (`@read`) are refused: what is in them changes with the version of the server, and
    some of it shows the names of other roles' keys.
    """
    if command.startswith("@"):
        return "is a category, and what is in it changes with the server: name the commands"
    if not _COMMAND.fullmatch(command):
        return "is not the name of a command, in lower case: get, or client|setname"
    if command not in _ALLOWED and command.partition("|")[0] in _REFUSED:
        return "reaches beyond the keys of a role"
    return None


def _command(name: str) -> str:
    if why := forbidden_reason(name):
        raise ValueError(f"{name!r} {why}")
    return name


def _pattern(pattern: str) -> str:
    if not _PATTERN.fullmatch(pattern):
        raise ValueError(f"{pattern!r} is not a pattern: it has blanks, or is not ASCII")
    if pattern.strip("*?") == "":
        raise ValueError(f"{pattern!r} is everything: begin it with {_SERVICE}:")
    return pattern


Command = Annotated[str, AfterValidator(_command)]
Pattern = Annotated[str, AfterValidator(_pattern)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Role(_Part):
    """What one role may do."""

    about: str = Field(min_length=1)
    """One line for people."""
    commands: tuple[Command, ...]
    keys: tuple[Pattern, ...] = ()
    """Patterns of keys that may be read and written."""
    read: tuple[Pattern, ...] = ()
    """Patterns of keys that may only be read."""
    channels: tuple[Pattern, ...] = ()
    """Patterns of channels to publish and subscribe to."""


class Rule(_Part):
    """An identity with this value in this claim has this role."""

    claim: str | tuple[str, ...]
    """The name of a claim, or the path to a nested one: ["realm_access", "roles"]."""
    value: str = Field(min_length=1)
    role: str

    def applies_to(self, claims: Mapping[str, Any]) -> bool:
        """Return whether the claim is this value, or a list that has it; `scope` has words."""
        path = (self.claim,) if isinstance(self.claim, str) else self.claim
        found: Any = claims
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(found, str):
            return self.value in (found.split() if path == ("scope",) else [found])
        return isinstance(found, list) and self.value in found


class _Connection(_Part):
    commands: tuple[Command, ...]


class _Document(_Part):
    connection: _Connection
    roles: dict[str, Role]
    identities: tuple[Rule, ...] = ()
    application_roles: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in self.roles:
            if not is_role_name(name):
                raise ValueError(f"{name!r} is no name of a role: use lower case, digits, hyphens")
        for rule in self.identities:
            if rule.role not in self.roles:
                raise ValueError(f"identities name the role {rule.role!r}, which is not there")
        for rule in self.application_roles:
            if not is_role_name(rule.role):
                raise ValueError(
                    f"application_roles name {rule.role!r}, which is no name of a role"
                )
        transaction = {"multi", "exec", "discard"}
        given = transaction & set(self.connection.commands)
        if given and given != transaction:
            # Half of it would look like a transaction, and lose what makes it one.
            raise ValueError(f"connection has {', '.join(sorted(given))} of multi, exec, discard")
        return self


@dataclass(frozen=True, slots=True)
class Policy:
    """A valid policy, for one service."""

    connection: tuple[str, ...]
    """Commands that every role needs."""
    roles: Mapping[str, Role]
    rules: Sequence[Rule]
    application_rules: Sequence[Rule] = ()

    def role_of(self, claims: Mapping[str, Any]) -> str | None:
        """Return the Redis role of the first rule that applies; None if none does."""
        return next((rule.role for rule in self.rules if rule.applies_to(claims)), None)

    def roles_of(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """Return the roles in the application, of all rules that apply."""
        return frozenset(rule.role for rule in self.application_rules if rule.applies_to(claims))


def load_policy(path: Path, *, service: str) -> Policy:
    """Read a policy, for the service of this name.

    Raises:
        PolicyError: it cannot be read, or is wrong.
    """
    if not service or re.search(r"[^!-~]|[*?\[\]\\]", service):
        raise PolicyError(f"the service name {service!r} would not be taken literally in patterns")
    try:
        text = path.read_text("utf-8").replace(_SERVICE, service)
        document = _Document.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from None
    except ValidationError as error:
        raise PolicyError("\n".join([f"{path} is wrong:", *_lines(error)])) from None
    return Policy(
        document.connection.commands,
        document.roles,
        document.identities,
        document.application_roles,
    )


def _lines(error: ValidationError) -> list[str]:
    return [
        f"  {'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}"
        for detail in error.errors(include_url=False, include_input=False)
    ]
