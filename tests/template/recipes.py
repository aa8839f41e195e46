"""The recipes: a page each, code in a folder of the same name, and how that gets into a service.

The pages are those of a service, `template/docs/how-to`, the code is in `docs/how-to` here.
A file of a recipe is a new file of the service, at the same place. A file that the service has is
extended: its imports are added, and what follows a comment that the service's file has, too, comes
behind that comment there ("# This service's own features: add yours here.").
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

from tests.template.answers import ROOT, Answers, default_answers

PAGES = ROOT / "template/docs/how-to"
FOLDER = ROOT / "docs/how-to"
# What every recipe is run with. Another answer is in the page's line `Needs`, and costs a service.
USUAL: Answers = default_answers() | {
    "database": "sqlite", "sessions": True, "events": True, "github": False,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One page, and its code if it has some."""

    page: Path

    @property
    def name(self) -> str:
        return self.page.name.partition(".")[0]

    @property
    def code(self) -> Path:
        return FOLDER / self.name

    @property
    def text(self) -> str:
        return self.page.read_text("utf-8")

    @property
    def files(self) -> dict[str, str]:
        """Its code: paths in the service, and what is there."""
        return {
            path.relative_to(self.code).as_posix(): path.read_text("utf-8")
            for path in sorted(self.code.rglob("*"))
            if path.is_file() and path.suffix != ".pyc"
        }

    @property
    def tests(self) -> list[str]:
        return [path for path in self.files if re.fullmatch(r"tests/(.+/)?test_\w+\.py", path)]

    @property
    def needs(self) -> dict[str, list[str | bool]]:
        """The answers that its line `Needs` names: one or several for a question."""
        found: dict[str, list[str | bool]] = {}
        for line in re.findall(r"^Needs (.+)$", self.text, re.MULTILINE):
            for question, answer in re.findall(r"`(\w+)=(\w+)`", line):
                of_question = found.setdefault(question, [])
                of_question.append({"true": True, "false": False}.get(answer, answer))
        return found

    @property
    def answers(self) -> Answers:
        """The answers with which it is run."""
        others = {name: found[0] for name, found in self.needs.items() if USUAL[name] not in found}
        return USUAL | others

    def suits(self, answers: Answers) -> bool:
        """Whether a service with these answers has what it needs."""
        return all(answers[name] in found for name, found in self.needs.items())

    @property
    def unshown(self) -> list[str]:
        """Blocks of Python on its page that are not in its code."""
        blocks = re.findall(r"^( *)```python\n(.*?)^\1```$", self.text, re.MULTILINE | re.DOTALL)
        return [block for _, block in blocks if not all(map(self._has, _parts(block)))]

    def _has(self, part: str) -> bool:
        """Whether a part of a block is in one of the files, line by line, but for empty ones."""
        wanted = list(filter(str.strip, part.splitlines()))
        for text in self.files.values():
            lines = list(filter(str.strip, text.splitlines()))
            for start in range(len(lines) - len(wanted) + 1):
                excerpt = dedent("\n".join(lines[start : start + len(wanted)]))
                if excerpt.splitlines() == wanted:
                    return True
        return False


def _parts(block: str) -> Iterator[str]:
    """What is between the lines `...` of a block, which stand for what is left out."""
    for part in re.split(r"^ *\.\.\.$", dedent(block), flags=re.MULTILINE):
        if part.strip():
            yield dedent(part.strip("\n"))


def recipes() -> list[Recipe]:
    return [Recipe(page) for page in sorted(PAGES.glob("*.md*"))]


def lay_in(recipe: Recipe, service: Path) -> None:
    """Put the code of a recipe into a service.

    Raises:
        ValueError: it would replace a file, or has nowhere to go in it.
    """
    for path, text in recipe.files.items():
        target = service / path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(recipe.code / path, target)
        elif text != target.read_text("utf-8"):
            _extend(target, text, f"{recipe.name}/{path}")


def _extend(target: Path, text: str, name: str) -> None:
    lines = target.read_text("utf-8").splitlines()
    imports, *additions = re.split(r"^(?=# )", text, flags=re.MULTILINE)
    for addition in additions:
        marker, _, rest = addition.partition("\n")
        places = [number for number, line in enumerate(lines) if line.strip() == marker]
        if len(places) != 1:
            raise ValueError(f"{name}: there is such a file already, without {marker!r}")
        margin = lines[places[0]].partition("#")[0]
        lines.insert(places[0] + 1, indent(rest.rstrip("\n"), margin))
    if not additions:
        raise ValueError(f"{name}: there is such a file already")
    first = next(number for number, line in enumerate(lines) if re.match("from|import", line))
    lines.insert(first, imports.strip("\n"))
    target.write_text("\n".join(lines) + "\n", "utf-8")
    for command in (("check", "-q", "--select", "I", "--fix"), ("format", "-q")):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(target)], check=True)
