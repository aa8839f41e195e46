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
MARK = "    # This service's own features: add yours here.\n"

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
    """Return the exit code: 2 if nothing was written, 1 if `app/main.py` is left to you."""
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
    added = _add_to_main(options.name, files)
    _format([*files, MAIN])
    for path in files:
        print(path.relative_to(ROOT))
    if not added:
        print(
            f"app/main.py has no line {MARK.strip()!r}. Add there, where parts are installed:\n"
            f"    from app.{options.name}.install import install_{options.name}\n"
            f"    {_call(options.name, files)}",
            file=sys.stderr,
        )
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


def _add_to_main(name: str, files: dict[Path, str]) -> bool:
    """Add the line to `app/main.py`, and its import; False if the marked place is gone."""
    text = MAIN.read_text("utf-8")
    before, mark, after = text.partition(MARK)
    imports = list(re.finditer(r"^from app\.", before, re.MULTILINE))
    if not mark or not imports:
        return False
    at = imports[0].start()
    line = f"from app.{name}.install import install_{name}\n"
    before = before[:at] + line + before[at:]  # the formatter puts it where it belongs
    MAIN.write_text(f"{before}{mark}    {_call(name, files)}\n{after}", "utf-8")
    return True


def _format(paths: Sequence[Path]) -> None:
    files = [str(path) for path in paths]
    for command in ("check", "--fix", "--select", "I"), ("format",):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", *files]
        subprocess.run(ruff, cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
