"""What is found out about one repository, as `--json` prints it."""

import re
from dataclasses import asdict, dataclass, field
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


def without_credentials(text: str) -> str:
    return CREDENTIALS.sub("***@", text)
