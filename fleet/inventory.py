"""The file that lists the repositories of a fleet."""

from pathlib import Path


class InvalidInventory(Exception):
    """The file cannot be used; the text says why and where."""


def read_inventory(file: Path) -> list[str]:
    """URLs or paths, one a line, ` #` starts a comment; relative paths count from the file.

    `address#folder` is a service in a folder of a repository.

    Raises InvalidInventory when it cannot be read, lists none, or lists one twice.
    """
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise InvalidInventory(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInventory(f"{file}: it is not UTF-8 text") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip() if not line.lstrip().startswith("#") else ""
        entry = entry.partition(" #")[0].strip()
        if not entry:
            continue
        if any(character.isspace() for character in entry) or entry.startswith("-"):
            raise InvalidInventory(f"{file}:{number}: {entry!r} is neither a URL nor a path")
        address, _, subfolder = entry.partition("#")
        if ".." in Path(subfolder).parts or Path(subfolder).is_absolute():
            raise InvalidInventory(f"{file}:{number}: {subfolder!r} is no folder in a repository")
        repository = "#".join(filter(None, [located(address, file.parent), subfolder.strip("/")]))
        if repository in seen:
            raise InvalidInventory(f"{file}:{number}: {entry} is listed in line {seen[repository]}")
        seen[repository] = number
    if not seen:
        raise InvalidInventory(f"{file}: it lists no repositories")
    return list(seen)


def located(entry: str, base: Path) -> str:
    """A path as an absolute one; `host:path` and `scheme://...` are left to Git."""
    if "://" in entry or ":" in entry.partition("/")[0]:
        return entry
    return str((base / Path(entry).expanduser()).resolve())
