"""One repository, as a clone that is thrown away."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fleet.copier_worker import ANSWERS
from fleet.processes import CommandFailed, Processes

GIT_SECONDS = 120.0


class NotAService(Exception):
    """The repository was not made from this template, or no longer says so."""


@dataclass
class Clone:
    folder: Path
    processes: Processes
    service: Path = field(init=False)
    """The folder of the service: the repository's own, or one in it."""

    def __post_init__(self) -> None:
        self.service = self.folder

    def git(self, *arguments: str) -> str:
        """Raises CommandFailed."""
        settings = ["-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false"]
        command = ["git", *settings, *arguments]
        try:
            return self.processes.run(command, cwd=self.folder, timeout=GIT_SECONDS)
        except CommandFailed as error:
            cause = str(error).removeprefix("git -c: ").removeprefix("git -c ")
            raise CommandFailed(f"git {arguments[0]}: {cause}") from None

    def take(self, repository: str, *, depth: int | None = None) -> None:
        """`depth`: how many commits; None for all, as a check may want them.

        Raises:
            CommandFailed: it cannot be cloned.
            NotAService: it is empty, or a link in it leads elsewhere.
        """
        address, _, subfolder = repository.partition("#")
        self.folder.mkdir(parents=True)
        shallow = [f"--depth={depth}"] if depth and not Path(address).exists() else []
        self.git("clone", "--quiet", *shallow, "--", address, ".")
        self.service = self.folder / subfolder
        if not self.git("for-each-ref", "--count=1"):
            raise NotAService("the repository is empty")
        self.refuse_links_elsewhere()
        if not self.git("config", "--default", "", "user.email").strip():
            self.git("config", "user.name", "fleet")
            self.git("config", "user.email", "fleet@localhost")

    def refuse_links_elsewhere(self) -> None:
        """An update, which runs with our rights, would write through them."""
        listed = lines(self.git("ls-files", "--stage", "-z"))
        for mode, path in ((entry[:6], entry.partition("\t")[2]) for entry in listed):
            target = (self.folder / path).resolve()
            if mode == "120000" and not target.is_relative_to(self.folder.resolve()):
                raise NotAService(f"{path} is a link that leads out of the repository")

    def answers(self) -> dict[str, Any]:
        """What Copier recorded; raises NotAService."""
        file = self.service / ANSWERS
        if not file.is_file():
            raise NotAService(f"not from this template: it has no {ANSWERS}")
        try:
            found = yaml.safe_load(file.read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise NotAService(f"{ANSWERS} cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(found, dict) or not {"_src_path", "_commit"} <= found.keys():
            raise NotAService(f"{ANSWERS} lacks _src_path or _commit")
        if not {"service_name", "database"} <= found.keys():
            raise NotAService(f"not from this template, but from {found['_src_path']}")
        return found

    def version(self) -> str:
        return str(self.answers()["_commit"])

    def move_template(self, source: str) -> None:
        """Record another place of the template, as a commit: Copier refuses a changed tree."""
        file = self.service / ANSWERS
        old = str(self.answers()["_src_path"])
        if old == source:
            return
        lines = file.read_text("utf-8").splitlines()
        quoted = yaml.safe_dump(source, width=10_000).splitlines()[0]
        moved = [f"_src_path: {quoted}" if ln.startswith("_src_path:") else ln for ln in lines]
        file.write_text("\n".join(moved) + "\n", "utf-8")
        self.commit(f"The template is at {source}")

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--no-verify", "--message", message)

    def changed(self) -> list[str]:
        """Paths that differ from the last commit."""
        self.git("add", "--all", "--intent-to-add")
        return lines(self.git("diff", "--name-only", "-z", "--no-renames", "HEAD"))

    def unmerged(self) -> list[str]:
        """Copier succeeds with conflicts too; the index knows of them."""
        entries = lines(self.git("ls-files", "--unmerged", "-z"))
        return sorted({entry.partition("\t")[2] for entry in entries})

    def remote_has(self, branch: str) -> bool:
        return bool(self.git("ls-remote", "--heads", "origin", f"refs/heads/{branch}").strip())


def lines(text: str) -> list[str]:
    return [line for line in text.split("\0") if line]
