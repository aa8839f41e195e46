"""Every role, command and key: what the policy says, and what a server does.

What is allowed is computed here from the policy, and not from the rules that it becomes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from redis import Redis

from app.core.access import Policy
from app.core.access.policy import Role

# What no role may do, whatever the policy of this service says.
NEVER = (
    "keys", "scan", "randomkey", "dbsize", "flushall", "flushdb", "swapdb", "monitor", "shutdown",
    "config|get", "config|set", "acl|setuser", "acl|list", "client|kill", "client|list",
    "script|flush", "script|load", "function|flush", "function|list", "replicaof", "debug",
    "pubsub|channels", "module|list", "slowlog|get", "save",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One command with one key (or channel) by one role, and whether it is allowed."""

    role: str
    words: tuple[str, ...]
    allowed: bool
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Command:
    """A command as the server describes it."""

    name: str
    words: int
    """The fewest it takes, its name included."""
    keys: tuple[int, ...]
    """Where its keys are."""
    reads_only: bool
    flags: frozenset[str]

    def with_target(self, target: str) -> tuple[str, ...]:
        named = self.name.split("|")
        words = named + ["1"] * (self.words - len(named))
        if self.name.startswith("eval"):
            words = [self.name, "return 1", "1", target]
        elif self.takes_channel:
            words[1] = target
        for place in self.keys:
            words[place] = target
        return tuple(words)

    @property
    def takes_channel(self) -> bool:
        return self.name in {"publish", "subscribe"}

    @property
    def takes_key(self) -> bool:
        return bool(self.keys) or self.name.startswith("eval")


def cases(policy: Policy, redis: Redis) -> Iterator[Case]:
    """The whole matrix. The keys are one of each pattern, and ones that nobody has."""
    names = {name for role in policy.roles.values() for name in role.commands}
    commands = _described(redis, sorted(names | set(policy.connection) | set(NEVER)))
    keys = {pattern for role in policy.roles.values() for pattern in (*role.keys, *role.read)} | {
        "nobodys",
        "another-service:data:*",
    }
    channels = {c for role in policy.roles.values() for c in role.channels} | {"nobodys"}
    for role_name, role in policy.roles.items():
        for command in commands:
            targets = channels if command.takes_channel else keys
            if not (command.takes_channel or command.takes_key):
                targets = {"1"}
            for target in sorted(map(_example, targets)):
                allowed = _is_allowed(policy, role, command, target)
                yield Case(role_name, command.with_target(target), allowed, command.flags)


def _is_allowed(policy: Policy, role: Role, command: _Command, target: str) -> bool:
    granted = {*policy.connection, *role.commands}
    if command.name not in granted and command.name.partition("|")[0] not in granted:
        # A server lets everybody log in, leave and begin anew.
        return "no_auth" in command.flags
    if command.takes_channel:
        return _fits(target, role.channels)
    if command.takes_key:
        return _fits(target, (*role.keys, *role.read) if command.reads_only else role.keys)
    return True


def _fits(target: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(target, pattern) for pattern in patterns)


def _example(pattern: str) -> str:
    return pattern.replace("[0-9]*", "1").replace("*", "x")


def _described(redis: Redis, names: Sequence[str]) -> list[_Command]:
    redis.response_callbacks.pop("COMMAND", None)  # which would leave out what is needed here
    found: Sequence[Any] = redis.execute_command("COMMAND", "INFO", *names)
    # An older server has not all of them.
    return [_command(name, it) for name, it in zip(names, found, strict=True) if it is not None]


def _command(name: str, found: Sequence[Any]) -> _Command:
    arity, flags, first, last, step = found[1], found[2], found[3], found[4], found[5]
    words = abs(int(arity))
    last = last if last >= 0 else words + last
    specs = [_text(flag) for spec in found[8] for flag in _mapping(spec)["flags"]]
    return _Command(
        name,
        words,
        tuple(range(first, last + 1, step)) if first else (),
        bool(specs) and {"RW", "OW", "RM"}.isdisjoint(specs),
        frozenset(map(_text, flags)),
    )


def _mapping(spec: Any) -> dict[str, Any]:
    pairs = spec.items() if isinstance(spec, Mapping) else zip(spec[::2], spec[1::2], strict=True)
    return {_text(name): value for name, value in pairs}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
