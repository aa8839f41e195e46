"""Parts of the template, for tests that render so often that the whole would take too long."""

import shutil
from collections.abc import Sequence
from pathlib import Path


def part_of(template: Path, folder: Path, *, plain: Sequence[str], pages: bool = False) -> Path:
    """A copy of `template` without its plain files, but for those at or below `plain`.

    The pages of a service are half of what is rendered: they are there only if they are asked for.
    It is a folder without Git: Copier renders one as it is, and has nothing to clone each time.
    """
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns(".git"))
    files = folder / "template"
    if not pages:
        shutil.rmtree(files / "docs")
    for path in files.rglob("*"):
        if path.is_file() and path.suffix != ".jinja" and not is_below(path, files, plain):
            path.unlink()
    return folder


def is_below(path: Path, folder: Path, names: Sequence[str]) -> bool:
    return any(path.is_relative_to(folder / name) for name in names)
