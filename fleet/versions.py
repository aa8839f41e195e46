"""What a template has released, and how the version of a service lies to that."""

import re
import threading
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from packaging.version import InvalidVersion, Version

from fleet.processes import CommandFailed, Processes

CLONE_SECONDS = 120.0
GIT_SECONDS = 60.0
# What `git describe` adds after the last tag: how many commits later, and which one.
DESCRIBED = re.compile(r"-\d+-g(?P<commit>[0-9a-f]+)$")


class UnknownVersion(Exception):
    """A service records a version that its template does not have."""


@dataclass
class Versions:
    """Of each template the commits, fetched once per fleet into `folder`."""

    processes: Processes
    folder: Path
    _histories: dict[str, Path] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def newest(self, template: str) -> str:
        """Its newest release, or its newest commit if nothing was released.

        Raises:
            CommandFailed: the template cannot be reached.
        """
        history = self._history(template)
        released = newest_of(self._git(history, "tag", "--list").split())
        return released or self._git(history, "rev-parse", "--short", "HEAD").strip()

    def is_behind(self, recorded: str, template: str) -> bool:
        """Whether the newest release has commits that `recorded`, as Copier writes it, lacks.

        Copier refuses to go back, so a service from a commit after the newest release waits.

        Raises:
            CommandFailed: the template cannot be reached.
            UnknownVersion: it has no such version.
        """
        newest, history = self.newest(template), self._history(template)
        distance = DESCRIBED.search(recorded)
        there = self._commit(history, distance["commit"] if distance else recorded)
        if there is None:
            raise UnknownVersion(f"{template} has no version {recorded}, which the service records")
        base = self._git(history, "merge-base", "--all", newest, there, failing=True).split()
        return self._commit(history, newest) not in base

    def _history(self, template: str) -> Path:
        """The commits of a template, without files."""
        with self._lock:
            if template not in self._histories:
                name = blake2b(template.encode(), digest_size=8).hexdigest()
                history = self.folder / name
                self.folder.mkdir(exist_ok=True)
                command = ["git", "clone", "--quiet", "--bare", "--filter=tree:0", "--"]
                command += [url_of(template), str(history)]
                self.processes.run(command, cwd=Path.home(), timeout=CLONE_SECONDS)
                self._histories[template] = history
            return self._histories[template]

    def _commit(self, history: Path, name: str) -> str | None:
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        return self._git(history, *words, failing=True).strip() or None

    def _git(self, history: Path, *arguments: str, failing: bool = False) -> str:
        """`failing`: that there is no answer is one, too."""
        try:
            return self.processes.run(["git", *arguments], cwd=history, timeout=GIT_SECONDS)
        except CommandFailed:
            if failing:
                return ""
            raise


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
