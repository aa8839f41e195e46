"""What the source of the template says, read from its syntax: fields, calls, and who has a file."""

import ast
import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "template"
# What belongs to a service alone has no rows: it may be gone tomorrow.
OWN = ("app/items", "app/accounts", "app/documents")
SIGNS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))
SHARES = {"jitter": "share of the ttl", "early_refresh": "factor"}
"""Options that are numbers, and no seconds."""


class Setting(NamedTuple):
    """A field of a class: its name, what it is annotated with, its default, and its docstring."""

    line: int
    name: str
    kind: str
    default: str
    about: str


def fields(text: str, names: dict[str, Any], of: str = "") -> Iterator[Setting]:
    """Yield the public fields of the classes in a file, or of one of them.

    Args:
        text: of the file.
        names: what its defaults may refer to.
        of: one class.
    """
    for node in ast.parse(text).body:
        if not isinstance(node, ast.ClassDef) or (of and node.name != of):
            continue
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            kind, name = ast.unparse(field.annotation), field.target.id
            if name.startswith("_") or (not of and field.value is None):
                continue  # another file has its default
            about = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                about = " ".join(str(after.value.value).split())
            default = default_of(field.value, names)
            if "SecretStr" in kind and "url" not in name and default != "empty":
                default = "one for development"
            yield Setting(field.lineno, name, kind, default, about)


def default_of(value: ast.expr | None, names: dict[str, Any]) -> str:
    """Return a default, with the limits of what may be given instead."""
    limits = []
    if isinstance(value, ast.Call) and name_of(value) == "Field":
        given = {each.arg: each.value for each in value.keywords}
        limits = [f"{word} {shown(given[sign], names)}" for sign, word in SIGNS if sign in given]
        value = given.get("default", given.get("default_factory"))
    if isinstance(value, ast.Call) and name_of(value) == "SecretStr":
        value = value.args[0]
    return ", ".join(["required" if value is None else shown(value, names), *limits])


def shown(value: ast.expr, names: dict[str, Any]) -> str:
    found = eval(compile(ast.Expression(value), "<default>", "eval"), names)  # our own code
    if found is None or found == "":
        return "unset" if found is None else "empty"
    return f"`{str(found).lower() if isinstance(found, bool) else found}`"


def unit(field: Setting) -> str:
    if field.name in SHARES:
        return SHARES[field.name]
    if re.search("bytes|compress_from", field.name):
        return "bytes"
    if "float" in field.kind or field.name.endswith("_seconds"):
        return "seconds"
    if field.kind.startswith("Literal"):
        return "one of " + ", ".join(re.findall(r"'(\w+)'", field.kind))
    return {"bool": "true or false", "int": "number"}.get(field.kind.split(" |")[0], "text")


def read(path: str) -> str:
    file = TEMPLATE / path
    return (file if file.exists() else TEMPLATE / f"{path}.jinja").read_text("utf-8")


def python_files(below: str) -> list[str]:
    """Return the files as a service has them; a rendered one only if it has no Jinja in a line."""
    found = [path.relative_to(TEMPLATE).as_posix() for path in (TEMPLATE / below).rglob("*.py")]
    if (TEMPLATE / below / "__init__.py.jinja").exists():
        found.append(f"{below}/__init__.py")
    return sorted(path for path in found if not path.startswith(OWN))


def by_part(paths: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Group files by the folder of `app/core`, or of `app`, that they are in."""

    def part(path: str) -> str:
        folders = path.removeprefix("app/").removeprefix("core/").split("/")
        return folders[0] if len(folders) > 1 else "service"

    for name, group in groupby(sorted(paths, key=lambda path: (part(path), path)), key=part):
        yield name.capitalize(), list(group)


def calls(text: str, names: Iterable[str]) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and name_of(node) in names and is_ours(node):
            yield node


def is_ours(call: ast.Call) -> bool:
    """Whether it may be a metric, or a line of the log: not a `Counter` of collections."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return isinstance(function.value, ast.Name) and function.value.id == "log"
    first = call.args[0] if call.args else None
    return isinstance(first, ast.Constant) and isinstance(first.value, str)


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def condition_of(path: str) -> str:
    """Return the condition on which a service has a file, as Jinja."""
    conditions, current = [], ""
    for text in map(str.strip, _exclude_block().splitlines()):
        if found := re.fullmatch(r"{% if (.+) %}", text):
            current = found[1]
        elif text.startswith("/") and f"{path}/".startswith(f"{text[1:]}/"):
            conditions.append(opposite(current))
    return " and ".join(conditions)


@cache
def _exclude_block() -> str:
    config = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))
    return next(str(entry) for entry in config["_exclude"] if "_copier_operation" in entry)


def opposite(condition: str) -> str:
    plain = re.sub(r" \| default\([^)]*\)", "", condition)
    if len(parts := plain.split(" and ")) > 1:
        return f"({' or '.join(map(opposite, parts))})"
    for pattern, instead in (
        (r"not (\w+)", r"\1"),
        (r"(\w+) != ('\w+')", r"\1 == \2"),
        (r"(\w+) == ('\w+')", r"\1 != \2"),
        (r"(\w+) not in (\(.+\))", r"\1 in \2"),
        (r"(\w+)", r"not \1"),
    ):
        if re.fullmatch(pattern, plain):
            return re.sub(pattern, instead, plain)
    raise ValueError(f"the opposite of {condition!r} is not known")


def without_tags(text: str) -> tuple[str, list[str]]:
    """Return a text without its lines of Jinja, and the condition of each line, from 1 on."""
    kept, conditions, stack = [], [""], list[str]()
    for each in text.splitlines():
        tag = re.fullmatch(r"{% (if|elif|endif) ?(.*) %}", each)
        if tag is None:
            kept.append("" if each.startswith("from ") else each)  # its module may be an answer
            conditions.append(" and ".join(stack))
        elif tag[1] == "if":
            stack.append(tag[2])
        else:
            stack.pop()
            stack += [tag[2]] if tag[1] == "elif" else []
    return "\n".join(kept), conditions


def module(path: str) -> ModuleType:
    """Import a plain file of the template."""
    if str(TEMPLATE) not in sys.path:
        sys.path.insert(0, str(TEMPLATE))
    return importlib.import_module(path.removesuffix(".py").replace("/", "."))
