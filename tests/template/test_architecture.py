"""The shape of `app/core`: who may import whom, and how long a file is."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.template.answers import ROOT

TEMPLATE = ROOT / "template"
CORE = TEMPLATE / "app/core"
MODULES = {
    ".".join(path.relative_to(TEMPLATE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((TEMPLATE / "app").rglob("*.py"))
}

# From the top down: a part imports only those of lower rows, and of its own.
LAYERS = (
    # Nobody imports the fast paths by name: they are chosen at start.
    (
        "app.core.commands",
        "app.core.service",
        "app.core.application",
        "app.core.error_answers",
        "app.core.fastpath",
        "app.core.testing",
    ),
    (
        "app.core.access",
        "app.core.allowed_methods",
        "app.core.cache",
        "app.core.events",
        "app.core.locks",
        "app.core.openapi",
        "app.core.sessions",
    ),
    ("app.core.redis",),
    ("app.core.observability", "app.core.serializers"),
    ("app.core",),
)
MOST_LINES = 400


def imported(name: str, path: Path) -> Iterator[str]:
    """The modules of `app` that a module imports, also for types and within functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [one if one in MODULES else node.module for one in inner]
        else:
            continue
        yield from (one for one in names if one in MODULES and one != name)


def layer_of(module: str) -> int:
    """The row of the longest prefix that stands in LAYERS."""
    return max(
        (prefix.count("."), row)
        for row, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if module == prefix or module.startswith(f"{prefix}.")
    )[1]


IMPORTS = {
    name: set(imported(name, path)) for name, path in MODULES.items() if name.startswith("app.core")
}


def test_the_core_imports_nothing_of_the_service() -> None:
    outside = {
        (name, other)
        for name, others in IMPORTS.items()
        for other in others
        if not other.startswith("app.core")
    }
    assert outside == set()


def test_no_module_of_the_core_imports_itself_by_way_of_others() -> None:
    """A package's `__init__` gathers what the package offers: it is no part of a circle."""
    gathering = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    graph = {name: others - gathering for name, others in IMPORTS.items() if name not in gathering}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_part_imports_one_above_it() -> None:
    upwards = {
        (name, other)
        for name, others in IMPORTS.items()
        for other in others
        if layer_of(other) < layer_of(name)
    }
    assert upwards == set()


def test_no_file_is_too_long() -> None:
    long = {
        str(path.relative_to(TEMPLATE)): lines
        for path in CORE.rglob("*.py")
        if (lines := path.read_text("utf-8").count("\n")) > MOST_LINES
    }
    assert long == {}
