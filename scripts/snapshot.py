"""A clean Git copy of a checkout, with its working tree as the newest release.

Copier renders releases. The tests and the demo want what lies in the working tree, without touching
the checkout and without asking for a commit, a tag or a Git user.
"""

import os
import re
import subprocess
from pathlib import Path

NEWEST = "v999.0.0"
RELEASE = re.compile(r"v\d+\.\d+\.\d+")

# Whoever runs this may have no Git user, sign commits or have hooks; none of it matters here.
CONFIG = {"commit.gpgSign": "false", "core.hooksPath": os.devnull, "core.autocrlf": "false"}
IDENTITY = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (("NAME", "Snapshot"), ("EMAIL", "snapshot@localhost"))
}
# Set while Git runs a hook, and would lead to the wrong repository.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")


def git(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Run Git in `cwd` and return what it prints; raises RuntimeError with Git's own words."""
    settings = [word for name, value in CONFIG.items() for word in ("-c", f"{name}={value}")]
    inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    done = subprocess.run(
        ["git", *settings, *arguments],
        cwd=cwd,
        env=inherited | IDENTITY | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"git {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


def releases(checkout: Path) -> list[str]:
    """The released tags `vX.Y.Z`, oldest version first; none if it is a folder without Git."""
    if not (checkout / ".git").exists():
        return []
    tags = git("tag", "--list", cwd=checkout).split()
    return sorted(filter(RELEASE.fullmatch, tags), key=version)


def version(tag: str) -> tuple[int, ...]:
    return tuple(map(int, tag.removeprefix("v").split(".")))


def release(repository: Path, tag: str, *, tree: Path | None = None) -> None:
    """Commit all of `tree` that it does not ignore (default: the repository's own), and tag it."""
    places = {"GIT_DIR": str(repository / ".git"), "GIT_WORK_TREE": str(tree)} if tree else {}
    git("add", "--all", cwd=repository, **places)
    git("commit", "--quiet", "--allow-empty", "--message", tag, cwd=repository, **places)
    git("tag", tag, cwd=repository)


def snapshot(checkout: Path, destination: Path) -> Path:
    """Copy the tags of `checkout`, and its working tree as `NEWEST`, into a new folder."""
    destination.mkdir(parents=True)
    git("init", "--quiet", "--initial-branch=main", cwd=destination)
    if (checkout / ".git").exists():
        git("fetch", "--quiet", "--no-tags", checkout, "refs/tags/*:refs/tags/*", cwd=destination)
    release(destination, NEWEST, tree=checkout)
    git("reset", "--quiet", "--hard", cwd=destination)
    return destination
