"""The newest release of each template, asked once per fleet."""

import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import InvalidVersion, Version

from fleet.processes import Processes

LS_REMOTE_SECONDS = 60.0
DESCRIBED = re.compile(r"-\d+-g[0-9a-f]+$")  # commits after a tag, and which one
COMMIT = re.compile(r"[0-9a-f]{7,40}")  # before there was a tag; it may look like a number


@dataclass
class Versions:
    processes: Processes
    _newest: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def newest(self, template: str) -> str:
        """Its newest release tag, empty if it has none; raises CommandFailed."""
        with self._lock:
            if template not in self._newest:
                self._newest[template] = newest_of(self._tags(template))
            return self._newest[template]

    def is_behind(self, recorded: str, template: str) -> bool:
        """Whether the newest release is newer than `recorded`, a tag or what `git describe` says.

        Copier refuses to go back, so a service from a commit after the newest release waits.
        """
        newest = self.newest(template)
        if COMMIT.fullmatch(recorded):
            return True
        try:
            return Version(newest) > Version(DESCRIBED.sub("", recorded))
        except InvalidVersion:
            return recorded != newest

    def _tags(self, template: str) -> list[str]:
        command = ["git", "ls-remote", "--tags", "--refs", "--", url_of(template)]
        output = self.processes.run(command, cwd=Path.home(), timeout=LS_REMOTE_SECONDS)
        return [line.rpartition("refs/tags/")[2] for line in output.splitlines()]


def url_of(template: str) -> str:
    """Copier's abbreviations, written out for Git."""
    for short, host in (("gh:", "https://github.com/"), ("gl:", "https://gitlab.com/")):
        if template.startswith(short):
            return f"{host}{template.removeprefix(short)}"
    return template.removeprefix("git+")


def sortable(recorded: str) -> tuple[Version, str]:
    """What sorts recorded versions; one that is none comes before all."""
    try:
        return Version(DESCRIBED.sub("", recorded)), recorded
    except InvalidVersion:
        return Version("0.dev0"), recorded


def newest_of(tags: list[str]) -> str:
    """As Copier chooses: by PEP 440, without pre-releases."""
    found: dict[Version, str] = {}
    for tag in tags:
        try:
            parsed = Version(tag)
        except InvalidVersion:
            continue
        if not parsed.is_prerelease:
            found[parsed] = tag
    return found[max(found)] if found else ""
