"""What a lock server may refuse, and what locks are without it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from redis.exceptions import ResponseError

WITHOUT = {
    "INFO": "a replica that was promoted, or a restart on an older snapshot, may grant a lock that "
    "is held: only a server that is empty is noticed",
    "PUBSUB": "waiting processes may all try at once when a lock is released",
    "PUBLISH": "no process is told of a release: those who wait ask ten times a second",
    "SUBSCRIBE": "this process is not told of releases: it asks ten times a second while it waits",
}
"""Commands that locks can go without, and what is missing then."""

# What comes before the reply of a command to a script.
_IN_SCRIPT = re.compile(r"(?:@?user_script: ?\d+: |ERR |-)+")


@dataclass(frozen=True, slots=True)
class Finding:
    """A command that a server refused."""

    node: str
    command: str
    """In capitals."""
    error: ResponseError


def in_script(reply: bytes) -> ResponseError:
    """Make an error of what a script was told."""
    return ResponseError(_IN_SCRIPT.sub("", reply.decode(), count=1))


def needed(findings: Iterable[Finding]) -> str:
    """What there are no locks without, in words; empty if nothing of it was refused."""
    return "; ".join(
        f"{found.node}: {found.command}: {found.error}"
        for found in findings
        if found.command not in WITHOUT
    )


def tells_of_releases(findings: Iterable[Finding]) -> bool:
    """Whether a release wakes those who wait for it."""
    return all(found.command != "PUBLISH" for found in findings)
