"""The newest release of each template, asked once per fleet."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import InvalidVersion, Version

from fleet.processes import Processes

LS_REMOTE_SECONDS = 60.0


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
