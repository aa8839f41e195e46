"""What is in a folder, as values that compare."""

from pathlib import Path
from typing import NamedTuple


class File(NamedTuple):
    content: bytes
    executable: bool


Tree = dict[str, File]


def read_tree(folder: Path) -> Tree:
    """All files under `folder` but Git's own, by path relative to it."""
    return {
        path.relative_to(folder).as_posix(): File(
            path.read_bytes(), bool(path.stat().st_mode & 0o100)
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


def differences(left: Tree, right: Tree) -> list[str]:
    """The paths that are not the same on both sides; empty if the trees are equal."""
    return sorted(path for path in left.keys() | right.keys() if left.get(path) != right.get(path))


def text_files(folder: Path) -> dict[str, str]:
    """The files of a render. All are UTF-8 text: a binary would be reverted by every update."""
    return {path: file.content.decode("utf-8") for path, file in read_tree(folder).items()}
