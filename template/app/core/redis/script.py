"""Lua that runs inside the server."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any

from redis.exceptions import NoScriptError

from app.core.redis.clients import RedisClient


@dataclass(frozen=True, slots=True)
class Script:
    """A script, sent by its digest, and in full only to a server that does not know it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def by_digest(self, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Return the command that runs it where it is known."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def in_full(self, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Return the command that runs it anywhere."""
        return ("EVAL", self.text, len(keys), *keys, *arguments)

    def call(self, keys: Sequence[str], arguments: Sequence[Any]) -> "ScriptCall":
        """Bind keys and arguments, for a `CommandBatcher`."""
        return ScriptCall(self, keys, arguments)

    async def run(self, client: RedisClient, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run it and return its reply.

        Raises:
            RedisError: it failed, or the server did not answer.
        """
        try:
            return await client.execute_command(*self.by_digest(keys, arguments))
        except NoScriptError:
            return await client.execute_command(*self.in_full(keys, arguments))


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """A script with its keys and arguments."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Any]

    def by_digest(self) -> tuple[Any, ...]:
        return self.script.by_digest(self.keys, self.arguments)

    def in_full(self) -> tuple[Any, ...]:
        return self.script.in_full(self.keys, self.arguments)
