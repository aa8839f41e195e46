"""What is found out about one repository, as `--json` prints it."""

import re
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

CREDENTIALS = re.compile(r"(?<=://)(?!git@)[^/@\s]+@")  # git@ is no secret


class State(StrEnum):
    CURRENT = "current"  # nothing to update
    CLEAN = "clean"  # the update applies, and the check passes
    BEHIND = "behind"  # only `status` says so: it does not try the update
    CONFLICT = "conflict"  # the update leaves unmerged paths
    BROKEN = "broken"  # the update applies, the check fails
    FAILED = "failed"  # no update could be tried, or it could not be pushed


GOOD = (State.CURRENT, State.CLEAN)


@dataclass
class Result:
    repository: str
    state: State = State.FAILED
    old: str = ""
    new: str = ""
    files: list[str] = field(default_factory=list)  # changed by the update
    conflicts: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)  # differ from what the template wrote
    dirty: bool = False  # a working tree with changes that are not committed, hence not looked at
    cause: str = ""
    branch: str = ""
    pushed: bool = False
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "repository": self.shown, "state": str(self.state)}

    @property
    def shown(self) -> str:
        """The repository without a password that its URL may hold."""
        return without_credentials(self.repository)


def printable(result: Result) -> Result:
    """The same for people: what a repository says of itself does not reach a terminal as it is."""
    return replace(
        result,
        repository=plain(result.repository),
        old=plain(result.old),
        new=plain(result.new),
        files=list(map(plain, result.files)),
        conflicts=list(map(plain, result.conflicts)),
        drift=list(map(plain, result.drift)),
        cause=plain(result.cause),
        branch=plain(result.branch),
    )


def plain(text: str) -> str:
    """With control characters, and those that change the direction of text, as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def without_credentials(text: str) -> str:
    return CREDENTIALS.sub("***@", text)
