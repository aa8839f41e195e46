"""Databases refuse to run as root, which is who runs tests in many a container."""

import os
import pwd
import shutil
from pathlib import Path

from devservers.guard import ServerUnavailable

_EVERYBODY_READS = 0o004
_EVERYBODY_ENTERS = 0o005


def user() -> tuple[int, int] | None:
    """uid and gid of somebody without rights if we are root, else None.

    Raises:
        ServerUnavailable: we are root, and there is nobody else.
    """
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ServerUnavailable(
            "the database does not run as root, and there is no user `nobody` to run it"
        ) from None
    return nobody.pw_uid, nobody.pw_gid


def give(folder: Path, user: tuple[int, int]) -> None:
    """Make a user the owner of `folder`.

    Raises:
        ServerUnavailable: the user cannot get at it.
    """
    if not _is_open(folder.parent):
        raise ServerUnavailable(
            f"the database does not run as root, and {folder.parent} is closed to other users: "
            "set TMPDIR to a folder that is not"
        )
    os.chown(folder, *user)


def share(binaries: Path, libraries: str, folder: Path, user: tuple[int, int]) -> Path:
    """Give `folder` to a user, and return where that user finds the binaries of a package.

    Somewhere under root's home nobody else finds them. Opening root's home to all would mend that,
    and be the worse evil: links or copies in `folder` do. `libraries` is the name of the folder,
    beside that of the package, of what they are linked with.

    Raises:
        ServerUnavailable: the user cannot get at `folder` itself.
    """
    give(folder, user)
    if _is_open(binaries):
        return binaries
    installation = binaries.parent
    packages = installation.parents[1]
    for part in (installation, packages / libraries):
        if part.exists():
            target = folder / part.relative_to(packages)
            shutil.copytree(part, target, symlinks=True, copy_function=_link_or_copy)
    for directory, _, _ in os.walk(folder):
        Path(directory).chmod(0o755)
    folder.chmod(0o700)
    return folder / binaries.relative_to(packages)


def _is_open(folder: Path) -> bool:
    return all(
        place.stat().st_mode & _EVERYBODY_ENTERS == _EVERYBODY_ENTERS
        for place in (folder, *folder.parents)
    )


def _link_or_copy(source: str, target: str) -> None:
    if Path(source).stat().st_mode & _EVERYBODY_READS:
        try:
            os.link(source, target)
        except OSError:
            pass  # on another file system
        else:
            return
    shutil.copyfile(source, target)
    Path(target).chmod(0o755)
