"""Write the tables of `template/docs/reference` from the code: `make reference`.

Options, settings, metrics and log events are read from the syntax of the files that define them. A
row of a file that an answer leaves out is under the same condition, by `_exclude` of `copier.yml`.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from scripts.source import (
    TEMPLATE,
    by_part,
    calls,
    condition_of,
    fields,
    module,
    name_of,
    python_files,
    read,
    unit,
    without_tags,
)

FOLDER = TEMPLATE / "docs/reference"
METRICS = {"Counter": ("counter", "_total"), "Gauge": ("gauge", ""), "Histogram": ("histogram", "")}
TOLD = ("why", "what", "remedy")
"""Values of a log event that may always be the same text."""
LEVELS = ("debug", "info", "warning", "error", "exception")


class Row(NamedTuple):
    """A row of a table, and the condition on which a service has it; empty: always."""

    condition: str
    cells: tuple[str, ...]


Table = tuple[str, tuple[str, ...], list[Row]]
"""A heading, the names of the columns, and the rows."""


def pages() -> dict[Path, str]:
    """Return the text of each page."""
    return {
        FOLDER / "policy-options.md": policy_options(),
        FOLDER / "settings.md.jinja": settings(),
        FOLDER / "metrics.md.jinja": metrics(),
        FOLDER / "log-events.md.jinja": log_events(),
    }


def policy_options() -> str:
    path = "app/core/cache/options.py"
    options = fields(read(path), vars(module(path)), of="PolicyOptions")
    rows = [Row("", (code(each.name), each.default, unit(each), each.about)) for each in options]
    return page(
        "All options of a policy",
        'Given to `cache.policy("item", Item, ttl=60, ...)`; editors complete them, and a wrong '
        "one stops the start.",
        [("", ("option", "default", "unit", "what it does"), rows)],
    )


def settings() -> str:
    tables = []
    for path in python_files("app/settings"):
        text, names, conditions = read(path), {}, [condition_of(path)] * 1000
        if path.endswith("__init__.py"):
            text, conditions = without_tags(text)
        else:
            names = vars(module(path))
        rows = [
            Row(
                conditions[each.line],
                (code(each.name.upper()), each.default, unit(each), each.about),
            )
            for each in fields(text, names)
        ]
        title = str(ast.get_docstring(ast.parse(text))).splitlines()[0].rstrip(".")
        if rows:
            title = "The service" if path.endswith("__init__.py") else title
            tables.append((title, ("variable", "default", "unit", "what it does"), rows))
    return page(
        "All settings",
        "Variables of the environment, or lines of `.env` in development. Yours are in "
        "`app/settings/__init__.py`.",
        tables,
    )


def metrics() -> str:
    tables = []
    for part, paths in by_part(python_files("app")):
        rows = []
        for path in paths:
            for call in calls(read(path), METRICS):
                kind, suffix = METRICS[name_of(call)]
                name, about, *labels = map(ast.literal_eval, call.args)
                listed = ", ".join(map(code, labels[0])) if labels else ""
                rows.append(Row(condition_of(path), (code(name + suffix), kind, listed, about)))
        if rows:
            tables.append((part, ("metric", "kind", "labels", "what it counts"), rows))
    return page(
        "All metrics",
        "Answered by `/metrics`. What ends with `_seconds` is in seconds, and has `_bucket`, "
        "`_sum` and `_count`.",
        tables,
    )


def log_events() -> str:
    tables = []
    for part, paths in by_part(python_files("app")):
        found = {}
        for path in paths:
            for event, level, values, why in events(read(path)):
                found[event] = Row(
                    condition_of(path), (code(event), level, values, why, code(path))
                )
        if found:
            rows = [found[event] for event in sorted(found)]
            tables.append((part, ("event", "level", "values", "what it says", "where"), rows))
    return page(
        "All log events",
        "A line of the log has one of these as `event`, the id of its request, and the values that "
        "are named here.",
        tables,
    )


def events(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield what a file logs: event, level, names of the values, and the text that is always so."""
    chosen = re.search(r"tell = log\.(\w+) if .* else log\.(\w+)", text)  # by the situation
    for call in calls(text, (*LEVELS, "tell")):
        if call.args and isinstance(call.args[0], ast.Constant) and "." in str(call.args[0].value):
            values = [each.arg for each in call.keywords if each.arg]
            fixed = [
                str(each.value.value)
                for each in call.keywords
                if each.arg in TOLD and isinstance(each.value, ast.Constant)
            ]
            level = name_of(call).replace("exception", "error")
            if level == "tell" and chosen:
                level = " or ".join(chosen.groups())
            yield str(call.args[0].value), level, ", ".join(map(code, values)), "; ".join(fixed)
    for call in calls(text, ("OutageLog",)):  # it makes two events of one word
        what = str(ast.literal_eval(call.args[0]))
        yield f"{what}_lost", "warning", "`error`, `advice`", ""
        yield f"{what}_back", "info", "`seconds`", ""


def page(title: str, about: str, tables: Iterable[Table]) -> str:
    note = f"{about} Made from the code by the template, whose tests compare them."
    parts = [f"# {title}\n\n{fill(note, 120)}\n"]
    for heading, head, rows in tables:
        conditions = {row.condition for row in rows}
        whole = conditions.pop() if len(conditions) == 1 else ""
        lines = ["", *([f"## {heading}", ""] if heading else [])]
        lines += [line(head), line(["---"] * len(head))]
        for condition, some in groupby(rows, key=lambda row: row.condition):
            lines += under("" if whole else condition, [line(row.cells) for row in some])
        parts.append("\n".join(under(whole, lines)) + "\n")
    return "".join(parts)


def under(condition: str, lines: list[str]) -> list[str]:
    return [f"{{% if {condition} %}}", *lines, "{% endif %}"] if condition else lines


def line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def code(text: str) -> str:
    return f"`{text}`"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
