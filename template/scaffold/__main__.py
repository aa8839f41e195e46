"""Begin a feature: `make feature NAME=products`, or `python -m scaffold products`.

Copies what is called things below this folder to the same place in the service, under that name,
and adds it to `app/main.py`. What is written is yours: updates of the template never touch it.
"""

import argparse
import builtins
import keyword
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SCAFFOLD = Path(__file__).parent
ROOT = SCAFFOLD.parent
MAIN = ROOT / "app/main.py"
TRAFFIC = ROOT / "benchmarks/traffic.py"
FEATURES = "    # This service's own features: add yours here.\n"
PATHS = "    # Paths of other features: add yours here.\n"

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST = 30
_PATHS = {"docs", "health", "metrics", "openapi", "redoc"}
_EXAMPLE = "items"
"""Updates would take another feature of this name for it, also once it is deleted."""
# What people read, in which a name has blanks: docstrings and comments.
_PROSE = re.compile(r'"""(?:.|\n)*?"""|(?<=\s)# [^\n]*')


class Refused(Exception):
    """Nothing was written; the message says why, and what to do."""


def main(arguments: Sequence[str]) -> int:
    """Return the exit code: 2 if nothing was written, 1 if a file of yours is left to you."""
    parser = argparse.ArgumentParser(prog="python -m scaffold", description=__doc__)
    parser.add_argument("name", help="of the feature, in the plural: products, order_lines")
    parser.add_argument("--singular", default="", help="of one of them, where it is not plain")
    options = parser.parse_args(arguments)
    try:
        _check_word(options.name)
        singular = options.singular or _singular(options.name)
        _check_word(singular)
        files = _files(options.name, singular)
        _check_free(options.name, singular)
        _write(files)
    except Refused as refused:
        print(f"{refused}. Nothing was written", file=sys.stderr)
        return 2
    left = _add_to_main(options.name, files) + _add_to_traffic(options.name, singular)
    _format([path for path in (*files, MAIN, TRAFFIC) if path.exists()])
    for path in files:
        print(path.relative_to(ROOT))
    if left:
        print("\n".join(left), file=sys.stderr)
        return 1
    print(f"app/main.py installs it. Try: make test, make dev, GET {_path(options.name)}")
    return 0


def _singular(name: str) -> str:
    for end, singular in ("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"):
        if name.endswith(end):
            return name.removesuffix(end) + singular
    if name.endswith("s") and not name.endswith("ss"):
        return name.removesuffix("s")
    raise Refused(f"Say what one of {name!r} is called: SINGULAR=...")


def _check_word(word: str) -> None:
    if not _NAME.fullmatch(word):
        raise Refused(f"Use a-z, 0-9 and single underscores, a letter first: not {word!r}")
    if len(word) > _LONGEST:
        raise Refused(f"Use at most {_LONGEST} characters: lines of code have to hold {word!r}")
    if keyword.iskeyword(word) or hasattr(builtins, word):
        raise Refused(f"Use another name than {word!r}, which is a word of Python")


def _check_free(name: str, singular: str) -> None:
    """Refuse a name that something here has already."""
    if name == singular:
        raise Refused(f"Use a plural: one and many cannot both be called {name!r}")
    if name in _PATHS:
        raise Refused(f"Use another name: the service itself answers at /{name}")
    if name == _EXAMPLE:
        raise Refused(f"Use another name: {name!r} is the example of the template")
    if (ROOT / f"app/{name}.py").exists():
        raise Refused(f"Use another name: app/{name}.py is there already")
    marks = {
        f"a table {name!r}": rf'__tablename__ = "{name}"',
        f"routes below {_path(name)}": rf'["\']{_path(name)}["/\']',
        f"a policy of the cache {name!r} or {singular!r}": rf'policy\(\s*"({name}|{singular})"',
        f"events {singular!r}": rf'name="{singular}\.\w+"',
    }
    for path in sorted((ROOT / "app").rglob("*.py")):
        if path.is_relative_to(ROOT / "app/core"):
            continue
        text = path.read_text("utf-8")
        for what, pattern in marks.items():
            if re.search(pattern, text):
                raise Refused(f"Use another name: {path.relative_to(ROOT)} has {what}")


def _files(name: str, singular: str) -> dict[Path, str]:
    """Return what is to be written.

    Raises:
        Refused: some of it is there already.
    """
    files = {}
    for path in sorted(SCAFFOLD.rglob("*things*/**/*.py")) + sorted(SCAFFOLD.rglob("things_*.py")):
        target = ROOT / str(path.relative_to(SCAFFOLD)).replace("things", name)
        if target.parent.name == name and target.parent.exists():
            target = target.parent
        if target.exists():
            raise Refused(f"Use another name: {target.relative_to(ROOT)} is there already")
        files[target] = _renamed(path.read_text("utf-8"), name, singular)
    return files


def _renamed(text: str, name: str, singular: str) -> str:
    def prose(match: re.Match[str]) -> str:
        words = match[0]
        for old, new in ("things", name), ("thing", singular):
            human = new.replace("_", " ")
            words = re.sub(rf"\b{old}\b", human, words)
            words = re.sub(rf"\b{old.capitalize()}\b", human.capitalize(), words)
        return words

    text = _PROSE.sub(prose, text).replace("scaffold.app.things", f"app.{name}")
    text = text.replace('"/things"', f'"{_path(name)}"')
    text = re.sub(r"(?<![a-z])things", name, text)  # not in "nothings"
    text = re.sub(r"(?<![a-z])thing", singular, text)
    return text.replace("Thing", "".join(word.capitalize() for word in singular.split("_")))


def _path(name: str) -> str:
    return "/" + name.replace("_", "-")


def _write(files: dict[Path, str]) -> None:
    """Write all files, or none."""
    written: list[Path] = []
    try:
        for path, text in files.items():
            path.parent.mkdir(exist_ok=True)
            written.append(path)
            path.write_text(text, "utf-8")
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in written}:
            if not any(folder.iterdir()):
                folder.rmdir()
        raise Refused(f"{error.filename} cannot be written: {error.strerror}") from None


def _call(name: str, files: dict[Path, str]) -> str:
    """Return the line that installs the feature."""
    install = files[ROOT / f"app/{name}/install.py"]
    signature = re.search(rf"def install_{name}\(([^)]*)\)", install)
    assert signature is not None
    arguments = re.findall(r"(\w+):", signature[1])
    return f"install_{name}({', '.join(arguments)})"


def _add_to_main(name: str, files: dict[Path, str]) -> list[str]:
    """Add the call to `app/main.py`, and its import; return what is left to do there."""
    line, call = f"from app.{name}.install import install_{name}", _call(name, files)
    text = MAIN.read_text("utf-8")
    at = re.search(r"^from app\.", text, re.MULTILINE)
    if FEATURES not in text or at is None:
        return [f"app/main.py has no line {FEATURES.strip()!r}. Add there:", line, call]
    # The formatter puts the import where it belongs.
    text = f"{text[: at.start()]}{line}\n{text[at.start() :]}"
    MAIN.write_text(_after(FEATURES, text, f"    {call}\n"), "utf-8")
    return []


def _add_to_traffic(name: str, singular: str) -> list[str]:
    """Have `make bench` ask for it, too; return what is left to do there."""
    path = _path(name)
    lines = f"""\
    ids = await create(client, "{path}", 100)
    found["{path}/{{{singular}_id}}"] = [f"{path}/{{each}}" for each in ids]
    found["{path}"] = [f"{path}?limit={{limit}}" for limit in range(1, 101)]
"""
    text = TRAFFIC.read_text("utf-8") if TRAFFIC.exists() else ""
    if PATHS not in text:
        return [f"benchmarks/traffic.py has no line {PATHS.strip()!r}. Add there:", lines]
    TRAFFIC.write_text(_after(PATHS, text, lines), "utf-8")
    return []


def _after(mark: str, text: str, new: str) -> str:
    """Put text behind a line, and behind what follows that line without a blank one."""
    lines = text.splitlines(keepends=True)
    at = lines.index(mark)
    while at < len(lines) and lines[at].strip():
        at += 1
    return "".join([*lines[:at], new, *lines[at:]])


def _format(paths: Sequence[Path]) -> None:
    files = [str(path) for path in paths]
    for command in ("check", "--fix", "--select", "I"), ("format",):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", *files]
        subprocess.run(ruff, cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
